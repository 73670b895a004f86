"""Load clients: they behave in many ways, and check each response."""

import asyncio
import io
import json
import random
import zipfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from .samples import Sample, pick
from .wire import Answer, Connection, Dropped, ask, connected

# A response that takes longer counts as missing, in seconds.
TIMEOUT = 180.0
# Pause between a refusal and the next try, in seconds. Retry-After is ignored, to keep the load up.
RETRY = 1.0
# Statuses that are correct at any time when the service has more to do than it can.
BUSY = (503, 504)
MEGABYTE = 2**20


@dataclass
class Results:
    """What the clients received. correct: number of correct images; pixels, digests: of those images."""

    correct: int = 0
    pixels: int = 0
    digests: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def count(self, client: str, status: int | str) -> None:
        """Count a response, or what happened in its place."""
        self.statuses[f"{client} {status}"] += 1


@dataclass
class LoadRun:
    """State that all clients of a run share.

    threads: where images are checked. photos: digests of the two files that take turns as model `photo`. serving:
    those of them that may answer a request now. pending: for each request, those that may answer it. closing: set
    when the clients should stop.
    """

    port: int
    samples: Sequence[Sample]
    photos: tuple[str, str]
    serving: set[str]
    threads: ThreadPoolExecutor
    results: Results = field(default_factory=Results)
    pending: list[set[str]] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def begin_request(self) -> set[str]:
        """The digests that may answer a request that begins now. The set grows if others start to serve."""
        self.pending.append(set(self.serving))
        return self.pending[-1]

    def start_serving(self, digest: str) -> None:
        """These weights may answer from now on, also the requests that are pending."""
        for allowed in (self.serving, *self.pending):
            allowed.add(digest)

    @property
    def small(self) -> list[Sample]:
        """Samples that are small enough for batches and jobs, which are done one after another."""
        return [sample for sample in self.samples if sample.pixels <= 320 * 240]

    async def check(self, client: str, sample: Sample, digest: str, body: bytes, allowed: set[str]) -> None:
        """Compare an image with the engine's. allowed: digests of `photo` that may have answered the request."""
        fault = await asyncio.get_running_loop().run_in_executor(self.threads, sample.fault, digest, body)
        if not fault and digest in self.photos and digest not in allowed:
            fault = "made by weights that were no longer in service"
        if fault:
            self.results.wrong.append(f"{client}, {sample.name}: {fault}")
        else:
            self.results.correct += 1
            self.results.digests[digest] += 1
            self.results.pixels += sample.pixels

    def expect(self, client: str, answer: Answer, *statuses: int) -> bool:
        """Count the status, and a fault if it is unexpected. Returns whether it is the first of the expected."""
        self.results.count(client, answer.status)
        if answer.status not in (*statuses, *BUSY):
            self.results.faults.append(
                f"{client}: status {answer.status}, expected {statuses}: {answer.body[:300]!r}"
            )
        if answer.status == 503 and not answer.headers.get("retry-after", "").isdecimal():
            self.results.faults.append(f"{client}: status 503 without Retry-After: {answer.body[:300]!r}")
        return answer.status == statuses[0]


Behaviour = Callable[[LoadRun, random.Random], Awaitable[None]]


async def image(run: LoadRun, rng: random.Random, slow_up: bool = False, slow_down: bool = False) -> None:
    """Send one or two images on one connection. Retry until each is answered with an image."""
    client = "slow upload" if slow_up else "slow reader" if slow_down else "image"
    async with connected(run.port, slow_down) as connection:
        for sample in [pick(rng, run.samples) for _ in range(rng.choice([1, 1, 2]))]:
            await _until_answered(run, client, connection, sample, slow_up, slow_down)


async def _until_answered(
    run: LoadRun, client: str, connection: Connection, sample: Sample, slow_up: bool, slow_down: bool
) -> None:
    while connection.open:
        allowed = run.begin_request()
        answer = await connection.ask(f"POST /denoise{sample.query}", sample.body, slow_up, slow_down)
        if run.expect(client, answer, 200):
            digest = answer.headers.get("x-denoise-digest", "none")
            await run.check(client, sample, digest, answer.body, allowed)
            return
        if run.closing.is_set():
            return
        await asyncio.sleep(RETRY)


async def form(run: LoadRun, rng: random.Random) -> None:
    """Send an image as a multipart form, as browsers do."""
    sample = pick(rng, run.samples)
    boundary = f"b{rng.getrandbits(64)}"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    body = head.encode() + sample.body + f"\r\n--{boundary}--\r\n".encode()
    allowed = run.begin_request()
    async with connected(run.port) as connection:
        kind = f"multipart/form-data; boundary={boundary}"
        answer = await connection.ask(f"POST /denoise{sample.query}", body, kind=kind)
    if run.expect("form", answer, 200):
        await run.check("form", sample, answer.headers.get("x-denoise-digest", "none"), answer.body, allowed)


class BrokenRequest(NamedTuple):
    """A request that cannot be answered with an image, and the statuses that it may get."""

    head: str
    body: bytes
    statuses: tuple[int, ...]


def _broken_requests(sample: Sample) -> Sequence[BrokenRequest]:
    return (
        BrokenRequest("POST /denoise", sample.body[: len(sample.body) // 2], (400,)),
        BrokenRequest("POST /denoise", b"no image at all", (400,)),
        BrokenRequest("POST /denoise", b"", (400,)),
        BrokenRequest("POST /denoise?model=none", sample.body, (404,)),
        BrokenRequest("POST /denoise?quality=0", sample.body, (422,)),
        BrokenRequest("POST /denoise/batch", b"PK\3\4no zip", (400,)),
        BrokenRequest("POST /nowhere", sample.body, (404,)),
    )


async def broken(run: LoadRun, rng: random.Random) -> None:
    """Send a request that must be refused."""
    case = rng.choice(_broken_requests(run.samples[0]))
    answer = await ask(run.port, case.head, case.body)
    run.expect("broken", answer, *case.statuses)


STAGES = ("before its body", "in its body", "while denoising", "in the response")


async def leave(run: LoadRun, rng: random.Random) -> None:
    """Disconnect early, at one of STAGES."""
    sample, stage, abort = pick(rng, run.samples), rng.randrange(len(STAGES)), rng.random() < 0.5
    head = f"POST /denoise{sample.query}"
    async with connected(run.port, slow=True) as connection:
        half = len(sample.body) // 2
        sent = (b"", sample.body[:half], sample.body, sample.body)[stage]
        try:
            await connection.send(head, sent, claimed=len(sample.body))
            if stage == 3:
                await connection.read_head()
            else:
                await asyncio.sleep(rng.random() * 0.5)
        except (OSError, EOFError) as error:
            run.results.faults.append(f"leaves: {type(error).__name__}: {error}")
        connection.close(abort)
    run.results.count("leaves", STAGES[stage])


async def too_long(run: LoadRun, rng: random.Random) -> None:
    """Announce a body of a million megabytes. It must be refused before it has come."""
    async with connected(run.port) as connection:
        try:
            await connection.send("POST /denoise", b"x" * MEGABYTE, claimed=2**40)
            status, _ = await connection.read_head()
        except (OSError, EOFError):
            run.results.faults.append("too long: no response")
            return
    run.results.count("too long", status)
    if status not in (413, *BUSY):
        run.results.faults.append(f"too long: status {status}, expected 413")


async def batch(run: LoadRun, rng: random.Random) -> None:
    """Send a zip of images, one of which is broken."""
    plain = [sample for sample in run.small if not sample.options]
    sent = [pick(rng, plain) for _ in range(rng.randrange(2, 6))]
    broken_at = rng.randrange(len(sent))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, sample in enumerate(sent):
            archive.writestr(f"{number}.x", b"no image" if number == broken_at else sample.body)
    allowed = run.begin_request()
    answer = await ask(run.port, "POST /denoise/batch", file.getvalue())
    if run.expect("batch", answer, 200):
        await _check_zip(run, sent, broken_at, answer.body, allowed)


async def _check_zip(
    run: LoadRun, sent: Sequence[Sample], broken_at: int, body: bytes, allowed: set[str]
) -> None:
    try:
        archive = zipfile.ZipFile(io.BytesIO(body))
        files = [(info, archive.read(info)) for info in archive.infolist()]
    except zipfile.BadZipFile as error:
        run.results.wrong.append(f"batch: {error}")
        return
    if len(files) != len(sent):
        run.results.wrong.append(f"batch: {len(files)} files came back, expected {len(sent)}")
    for number, (sample, (info, data)) in enumerate(zip(sent, files, strict=False)):
        problem = json.loads(data) if info.filename.endswith(".error.json") else None
        if problem and (number == broken_at or problem["status"] in BUSY):
            run.results.count("batch's file", problem["status"])
        elif problem or number == broken_at:
            run.results.wrong.append(f"batch: {info.filename}, {problem}")
        else:
            headers = dict(line.split(": ", 1) for line in info.comment.decode().split("\n"))
            await run.check("batch", sample, headers["X-Denoise-Digest"], data, allowed)


async def job(run: LoadRun, rng: random.Random) -> None:
    """Send an image as a job, poll until it is done, fetch its result and delete it."""
    sample, allowed = pick(rng, run.small), run.begin_request()
    answer = await ask(run.port, f"POST /jobs{sample.query}", sample.body)
    # 507: jobs come faster than they are done, and the disk space for them is used up.
    if not run.expect("job", answer, 202, 507):
        return
    place = answer.headers["location"]
    state = ""
    while state not in ("done", "failed"):
        await asyncio.sleep(0.2)
        state = json.loads((await ask(run.port, f"GET {place}")).body)["state"]
    result = await ask(run.port, f"GET {place}/result")
    if run.expect("job's result", result, 200):
        await run.check("job", sample, result.headers.get("x-denoise-digest", "none"), result.body, allowed)
    run.expect("job deleted", await ask(run.port, f"DELETE {place}"), 204)


# What a client does next, and how often relative to the others.
BEHAVIOURS: dict[Behaviour, float] = {
    image: 60,
    partial(image, slow_up=True): 8,
    partial(image, slow_down=True): 8,
    form: 6,
    leave: 10,
    broken: 8,
    too_long: 1,
    batch: 2,
    job: 2,
}


async def run_client(run: LoadRun, seed: int, behaviours: dict[Behaviour, float]) -> None:
    """One client that does one thing after another until the run closes. It finishes what it has begun."""
    rng = random.Random(seed)
    while not run.closing.is_set():
        behaviour = rng.choices(list(behaviours), list(behaviours.values()))[0]
        try:
            async with asyncio.timeout(TIMEOUT):
                await behaviour(run, rng)
        except (Dropped, TimeoutError) as error:
            run.results.count("dropped", type(error).__name__)
            run.results.faults.append(f"{_name(behaviour)}: {type(error).__name__}: {error}")


def _name(behaviour: Behaviour) -> str:
    inner = behaviour.func if isinstance(behaviour, partial) else behaviour
    return getattr(inner, "__name__", str(behaviour))


async def run_clients(run: LoadRun, count: int, seconds: float, behaviours: dict[Behaviour, float]) -> float:
    """Several clients at once for a time. Returns the pixels a second that came back correct in that time."""
    loop = asyncio.get_running_loop()
    start, before = loop.time(), run.results.pixels
    clients = [asyncio.create_task(run_client(run, seed, behaviours)) for seed in range(count)]
    try:
        await asyncio.sleep(seconds)
        speed = (run.results.pixels - before) / (loop.time() - start)
        run.closing.set()
        await asyncio.gather(*clients)
    finally:
        run.closing.clear()
        for client in clients:
            client.cancel()
    return speed
