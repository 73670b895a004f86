"""The Python client: its calls to a real service, and its tries again at one that is busy or gone."""

import inspect
import shutil
import subprocess
import sys
import typing
from io import BytesIO
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from service import client as module
from service.api import jobs
from service.client import Client, Options, ServiceError
from service.params import DenoiseParams, JobParams
from service.settings import Settings
from tests.support.browser import served

SOURCE = Path(module.__file__)
MAX_LINES = 200
KEY = "k" * 40
BUSY = "The queue is full."
JOB = {"id": "j1", "state": "waiting", "name": "a.png", "progress": 0.0, "seconds_left": None, "error": None}


@pytest.fixture(scope="module")
def address(folder, tmp_path_factory):
    settings = Settings(
        weights=folder,
        model="photo",
        device="cpu",
        precision="float32",
        max_pixels=5_000,
        keys=f"web:{KEY}",
        spool=tmp_path_factory.mktemp("spool"),
    )
    with served(settings) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with Client(address, KEY, patience=0) as client:
        yield client


@pytest.fixture
def files(tmp_path, samples, file_of):
    """Two images and a file that is none."""
    made = [tmp_path / name for name in ("one.png", "text.png", "two.jpg")]
    made[0].write_bytes(file_of(samples(21, 34)))
    made[1].write_text("not an image")
    made[2].write_bytes(file_of(samples(30, 20, seed=1), "JPEG"))
    return made


def size(data):
    return Image.open(BytesIO(data)).size


def test_an_image_is_denoised_with_its_options(client, address, files, tmp_path):
    result = client.denoise(files[0], strength=0.5, force=True, format="tiff")
    result.save(tmp_path / "clean.tiff")

    expected = httpx.post(
        f"{address}denoise",
        params={"strength": 0.5, "force": "true", "format": "tiff"},
        content=files[0].read_bytes(),
        headers={"X-API-Key": KEY},
    )
    assert result.name == "one.png"
    assert result.headers["x-denoise-model"] == "photo"
    assert np.array_equal(Image.open(tmp_path / "clean.tiff"), Image.open(BytesIO(expected.content)))


def test_paths_and_bytes_give_the_same_image(client, files):
    results = [client.denoise(each).data for each in (files[0], str(files[0]), files[0].read_bytes())]

    assert results[0] == results[1] == results[2]


def test_a_refusal_has_its_status_and_its_detail(client, files):
    with pytest.raises(ServiceError, match=r"^400: .*Supported formats: JPEG") as refused:
        client.denoise(files[1])

    assert refused.value.status == 400
    assert refused.value.retry_after is None


def test_a_wrong_key_is_refused(address, files):
    with Client(address, "x" * 40) as client, pytest.raises(ServiceError, match="401"):
        client.jobs()


def test_the_noise_is_measured(client, files):
    estimate = client.estimate(files[0])

    assert len(estimate["sigma"]) == 3
    assert estimate["words"]
    with pytest.raises(ServiceError, match="422"):
        client.estimate(files[0], page=2)


def test_a_batch_has_results_in_order_and_errors_in_place(client, files):
    one, text, two, again = client.batch(*files, files[0], format="png")

    assert [each.name for each in (one, text, two)] == ["one.png", "text.png.error.json", "two.png"]
    assert [size(each.data) for each in (one, two, again)] == [(34, 21), (20, 30), (34, 21)]
    assert one.data == again.data == client.denoise(files[0]).data
    assert one.headers["x-denoise-model"] == "photo"
    assert text.error.status == 400
    with pytest.raises(ServiceError, match="Supported formats"):
        text.save("never.png")


def test_a_job_of_one_image_is_followed_and_fetched(client, files):
    job = client.submit(files[0], format="webp")
    seen = list(client.watch(job))
    [result] = client.results(seen[-1])
    listed = [each["id"] for each in client.jobs()]
    client.delete(job)

    assert seen[-1]["state"] == "done"
    assert [each["progress"] for each in seen] == sorted(each["progress"] for each in seen)
    assert result.name == "one.webp"
    assert result.data == client.denoise(files[0], format="webp").data
    assert job["id"] in listed
    assert client.jobs() == []


def test_a_job_of_many_images_gives_them_one_by_one(client, files):
    *_, job = client.watch(client.submit(*files))

    assert [bool(each.error) for each in client.results(job)] == [False, True, False]
    client.delete(job)


def test_a_job_that_failed_raises_its_error(client, files):
    *_, job = client.watch(client.submit(files[1]))

    assert job["state"] == "failed"
    with pytest.raises(ServiceError, match=r"400: .*Supported formats"):
        client.results(job)


class Script:
    """A service that answers as told, one answer after the other. asked: the requests that it got."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, request):
        self.asked.append((request.method, request.url.path))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def busy(status=503, wait="7"):
    problem = {"type": "about:blank", "title": "busy", "status": status, "detail": BUSY}
    headers = {"Content-Type": "application/problem+json", **({"Retry-After": wait} if wait else {})}
    return httpx.Response(status, json=problem, headers=headers)


def done():
    return httpx.Response(200, content=b"clean", headers={"Content-Type": "image/png"})


@pytest.fixture
def slept(monkeypatch):
    """How long the client waited before each further try."""
    seconds = []
    monkeypatch.setattr(module, "sleep", seconds.append)
    return seconds


@pytest.fixture
def scripted():
    """scripted(*answers): the client of a service that answers so, and the requests that it gets."""
    clients = []

    def make(*answers, **options):
        script = Script(*answers)
        clients.append(Client(transport=httpx.MockTransport(script), **options))
        return clients[-1], script.asked

    yield make
    for client in clients:
        client.close()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_when_it_says(status, scripted, slept):
    client, asked = scripted(busy(status), busy(status, "2"), done())

    assert client.denoise(b"noisy").data == b"clean"
    assert slept == [7, 2]
    assert asked == [("POST", "/denoise")] * 3


def test_each_wait_is_logged_with_its_reason(scripted, slept, caplog):
    client, _ = scripted(busy(wait="7"), done())

    client.denoise(b"noisy")

    assert caplog.messages == [f"POST /denoise: 503: {BUSY} Trying again in 7 s."]


def test_without_retry_after_each_pause_is_twice_as_long(scripted, slept):
    client, _ = scripted(*(busy(wait=None) for _ in range(4)), done())

    client.denoise(b"noisy")

    assert slept == [1, 2, 4, 8]


@pytest.mark.parametrize("wait", ["Wed, 21 Oct 2026 07:28:00 GMT", "-3", "0", ""])
def test_another_retry_after_counts_as_none(wait, scripted, slept):
    client, _ = scripted(busy(wait=wait), done())

    client.denoise(b"noisy")

    assert slept == [1]


def test_a_wait_beyond_the_patience_is_an_error_at_once(scripted, slept):
    client, asked = scripted(busy(429, "3600"), patience=120)

    with pytest.raises(ServiceError, match=BUSY) as refused:
        client.denoise(b"noisy")

    assert refused.value.retry_after == 3600
    assert (slept, len(asked)) == ([], 1)


@pytest.mark.parametrize("status", [400, 404, 413, 500, 504, 507])
def test_other_refusals_are_not_tried_again(status, scripted, slept):
    client, asked = scripted(busy(status))

    with pytest.raises(ServiceError, match=str(status)):
        client.denoise(b"noisy")

    assert (slept, len(asked)) == ([], 1)


def test_the_answer_of_a_proxy_is_an_error_too(scripted):
    client, _ = scripted(httpx.Response(502, html="<h1>Bad gateway</h1>"))

    with pytest.raises(ServiceError, match="502: Bad Gateway"):
        client.denoise(b"noisy")


@pytest.mark.parametrize("broken", [httpx.ReadError("reset"), httpx.RemoteProtocolError("closed")])
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.denoise(b"noisy"),
        lambda client: list(client.batch(b"one", b"two")),
        lambda client: client.delete(JOB),
    ],
    ids=["denoise", "batch", "delete"],
)
def test_a_broken_connection_is_tried_again(call, broken, scripted, slept):
    client, asked = scripted(broken, broken, done())

    call(client)

    assert (slept, len(asked)) == ([1, 2], 3)


def test_a_job_is_submitted_again_with_the_same_key(slept):
    accepted, keys = httpx.Response(202, json=JOB), []
    script = Script(httpx.ReadError("reset"), busy(), accepted, accepted)

    def answer(request):
        keys.append(request.headers["idempotency-key"])
        return script(request)

    with Client(transport=httpx.MockTransport(answer)) as client:
        first, second = client.submit(b"noisy"), client.submit(b"noisy")

    assert (first, second, slept) == (JOB, JOB, [1, 7])
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]


def test_a_slow_answer_is_not_tried_again(scripted, slept):
    client, _ = scripted(httpx.ReadTimeout("slow"))

    with pytest.raises(httpx.ReadTimeout):
        client.denoise(b"noisy")

    assert slept == []


def events(*changes, broken=False):
    def stream():
        yield b": ping\n\n"
        for change in changes:
            yield b"id: x\ndata: %b\n\n" % httpx.Response(200, json={**JOB, **change}).content
        if broken:
            raise httpx.ReadError("reset")

    return httpx.Response(200, content=stream(), headers={"Content-Type": "text/event-stream"})


def test_events_go_on_after_a_restart_of_the_service(scripted, slept):
    stopped = events({"progress": 0.5}), events({"progress": 0.75}, broken=True)
    client, asked = scripted(*stopped, httpx.ConnectError("refused"), busy(), events({"state": "done"}))

    seen = [(job["state"], job["progress"]) for job in client.watch(JOB)]

    assert seen == [("waiting", 0.5), ("waiting", 0.75), ("done", 0.0)]
    assert slept == [1, 1, 1, 7]
    assert asked == [("GET", "/jobs/j1/events")] * 5


def test_the_path_of_a_proxy_stays_in_the_address(scripted):
    client, asked = scripted(done(), url="https://images.example/denoise/")

    client.denoise(b"noisy")

    assert asked == [("POST", "/denoise/denoise")]


def test_the_options_are_those_of_the_service():
    fields = JobParams.model_json_schema()["properties"]

    assert set(Options.__annotations__) == {*DenoiseParams.model_fields, "task", "minutes"}
    for name, type_ in Options.__annotations__.items():
        if typing.get_origin(type_) is typing.Literal:
            assert list(typing.get_args(type_)) == fields[name]["enum"], name


def test_the_fields_of_a_job_are_those_of_the_service():
    assert set(module.Job.__annotations__) <= set(jobs.Job.model_fields)


def loaded_by(code, *flags):
    """The packages that a Python process has loaded after this code."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_client_loads_neither_torch_nor_the_service():
    loaded = loaded_by("from service.client import Client")

    assert "httpx2" in loaded
    assert not loaded & {"torch", "numpy", "PIL", "fastapi", "pydantic", "pydantic_core", "uvicorn", "typer"}


def test_a_copy_of_the_client_works_alone(tmp_path):
    shutil.copy(SOURCE, tmp_path / "denoise_client.py")

    loaded = loaded_by(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import denoise_client", "-I")

    assert "denoise_client" in loaded
    assert not loaded & {"service", "engine", "torch"}


def test_the_client_is_short_enough_to_copy():
    assert len(inspect.getsource(module).splitlines()) <= MAX_LINES
