"""Client of the denoising service, in one file that you may copy. It needs Python 3.11 and httpx2 (or httpx).

with Client("http://127.0.0.1:8000") as client:
    client.denoise("noisy.png", format="jpeg", quality=90).save("clean.jpg")
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Literal, Self, TypedDict, Unpack, cast
from uuid import uuid4
from zipfile import ZipFile

import httpx2 as httpx

Image = str | Path | bytes  # the path of an image file, or its bytes
URL = "http://127.0.0.1:8000"
BUSY = (429, 503)  # statuses of a service that asks to try again later
BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)
log = logging.getLogger("denoise.client")
FIRST_PAUSE = 1.0  # seconds before the second try, if the service does not say how long; then twice as long


class Options(TypedDict, total=False):
    """The parameters of a request. service/README.md explains them. task, minutes: of `submit` only."""

    task: Literal["denoise", "adapt"]
    minutes: float
    model: str
    format: Literal["jpeg", "png", "webp", "tiff", "avif", "same"]
    quality: int
    strength: float
    grain: float
    luma: float
    chroma: float
    output: Literal["clean", "residual", "compare"]
    page: int
    colour: Literal["srgb", "prophoto"]
    normalise: Literal["auto", "off"]
    impulses: Literal["auto", "off"]
    banding: Literal["auto", "off"]
    force: bool


class Job(TypedDict):
    """A job. progress: 0 to 1. error: the problem document, if the job failed."""

    id: str
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    name: str
    progress: float
    seconds_left: float | None
    error: dict[str, Any] | None


class ServiceError(Exception):
    """The service refused a request. retry_after: seconds to wait before the next try, if it says so."""

    def __init__(self, problem: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status, self.detail, self.retry_after = problem["status"], problem["detail"], retry_after
        super().__init__(f"{self.status}: {self.detail}")


@dataclass(frozen=True)
class Result:
    """A denoised image, as the bytes of a file; or, in a batch, its error. All other errors are raised."""

    name: str
    data: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    error: ServiceError | None = None

    def save(self, path: str | Path) -> None:
        """Write the image to a file. Raises the error, if there is one."""
        if self.error:
            raise self.error
        Path(path).write_bytes(self.data)


class Client:
    """Calls the service, and calls again while it is busy or restarts. Use it in a `with` block, or close it.

    timeout: longest silence of the service, in seconds. patience: how long a call may go on trying, in seconds.
    Further options are those of httpx.Client. Methods raise ServiceError, httpx.TransportError and OSError.
    """

    def __init__(
        self, url: str = URL, api_key: str = "", timeout: float = 330, patience: float = 120, **options: Any
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, **options)
        self.close, self.patience = self._http.close, patience

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def denoise(self, image: Image, **options: Unpack[Options]) -> Result:
        """Denoise one image."""
        file = _file(image)
        return next(_results(self._ask("POST", "/denoise", params=options, files={"image": file}), file[0]))

    def estimate(self, image: Image, page: int = 1) -> dict[str, Any]:
        """Measure the noise of an image. service/README.md lists the fields of the answer."""
        answer = self._ask("POST", "/estimate", params={"page": page}, files={"image": _file(image)})
        return cast(dict[str, Any], answer.json())

    def batch(self, *images: Image, **options: Unpack[Options]) -> Iterator[Result]:
        """Denoise many images, as many as fit in memory. The results have the order of the images."""
        return _results(self._ask("POST", "/denoise/batch", params=options, content=_zip(images)))

    def submit(self, *images: Image, **options: Unpack[Options]) -> Job:
        """Submit a job of one or many images. However often the request is sent, it is one job."""
        headers = {"Idempotency-Key": uuid4().hex}
        body: Any = {"content": _zip(images)} if len(images) != 1 else {"files": {"image": _file(images[0])}}
        return cast(Job, self._ask("POST", "/jobs", params=options, headers=headers, **body).json())

    def jobs(self) -> list[Job]:
        """List the newest jobs of the API key, newest first."""
        return cast(list[Job], self._ask("GET", "/jobs").json())

    def watch(self, job: Job) -> Iterator[Job]:
        """The job now and after each change, until it has ended. Goes on after a restart of the service."""
        while True:
            with closing(self._ask("GET", f"/jobs/{job['id']}/events", stream=True)) as events, suppress(*BROKEN):
                for line in events.iter_lines():
                    if line.startswith("data:"):
                        yield (job := cast(Job, json.loads(line.removeprefix("data:"))))
                        if job["state"] in ("done", "failed", "cancelled"):
                            return
            sleep(FIRST_PAUSE)

    def results(self, job: Job) -> Iterator[Result]:
        """The images of a job that has ended, as `watch` shows it last."""
        if job["error"]:
            raise ServiceError(job["error"])
        return _results(self._ask("GET", f"/jobs/{job['id']}/result"), job["name"])

    def delete(self, job: Job) -> None:
        """Cancel a job, and delete its files."""
        self._ask("DELETE", f"/jobs/{job['id']}")

    def _ask(self, method: str, path: str, stream: bool = False, **request: Any) -> httpx.Response:
        end, pause = monotonic() + self.patience, FIRST_PAUSE
        while True:
            try:
                answer = self._http.send(self._http.build_request(method, path, **request), stream=stream)
                if answer.is_success:
                    return answer
                raise _error(answer)
            except (ServiceError, *BROKEN) as error:
                may_repeat, wait = True, pause
                if isinstance(error, ServiceError):
                    may_repeat, wait = error.status in BUSY, error.retry_after or pause
                if not may_repeat or monotonic() + wait > end:
                    raise
                log.warning("%s %s: %s Trying again in %g s.", method, path, str(error).rstrip(".") + ".", wait)
            sleep(wait)
            pause *= 2


def _error(answer: httpx.Response) -> ServiceError:
    wait, body = answer.headers.get("retry-after", ""), answer.read()
    problem = {"status": answer.status_code, "detail": answer.reason_phrase}  # if it comes from a proxy
    if answer.headers.get("content-type") == "application/problem+json":
        problem = json.loads(body)
    return ServiceError(problem, float(wait) if wait.isdecimal() else None)


def _file(image: Image) -> tuple[str, bytes]:
    """Name and content of an image file."""
    return ("image", image) if isinstance(image, bytes) else (Path(image).name, Path(image).read_bytes())


def _zip(images: tuple[Image, ...]) -> bytes:
    content = BytesIO()
    with ZipFile(content, "w") as archive:
        for number, (name, data) in enumerate(map(_file, images), 1):
            archive.writestr(f"{number}-{name}" if name in archive.namelist() else name, data)
    return content.getvalue()


def _results(answer: httpx.Response, name: str = "") -> Iterator[Result]:
    """The image that an answer is, or those in a zip. The zip's comments are the headers of its images."""
    if answer.headers["content-type"] != "application/zip":
        yield Result(name, answer.content, dict(answer.headers))
        return
    with ZipFile(BytesIO(answer.content)) as archive:
        for info in archive.infolist():
            data, lines = archive.read(info), info.comment.decode().split("\n")
            headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
            error = ServiceError(json.loads(data)) if info.filename.endswith(".error.json") else None
            yield Result(info.filename, b"" if error else data, headers, error)
