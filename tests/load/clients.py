"""Clients of every sort, who check each answer they get."""

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

# Whoever waits longer for an answer has none.
PATIENCE = 180.0
# Between a refusal and the next try, in seconds, whatever Retry-After says: the load is to stay.
RETRY = 1.0
# By design, where the service has more to do than it can.
BUSY = (503, 504)
MEGABYTE = 2**20


@dataclass
class Ledger:
    """What became of it all. right: images that came as they should; pixels, digests: of those."""

    right: int = 0
    pixels: int = 0
    digests: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def count(self, who: str, status: int | str) -> None:
        """An answer, or what came in its place."""
        self.statuses[f"{who} {status}"] += 1


@dataclass
class Town:
    """Where clients live. threads: to check images in.

    photos: digests of `photo`, of which those in `serving` may answer now. begun: for each request those that may
    answer it. closing: set when all are to go home.
    """

    port: int
    samples: Sequence[Sample]
    photos: tuple[str, str]
    serving: set[str]
    threads: ThreadPoolExecutor
    ledger: Ledger = field(default_factory=Ledger)
    begun: list[set[str]] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def asking(self) -> set[str]:
        """What may answer a request that begins now: what is served, and what will be until it is answered."""
        self.begun.append(set(self.serving))
        return self.begun[-1]

    def serve(self, digest: str) -> None:
        """Weights that may be served from now on."""
        for may in (self.serving, *self.begun):
            may.add(digest)

    @property
    def small(self) -> list[Sample]:
        """Those for batches and jobs, of which there is a queue."""
        return [sample for sample in self.samples if sample.pixels <= 320 * 240]

    async def check(self, who: str, sample: Sample, digest: str, body: bytes, before: set[str]) -> None:
        """Whether an image is the engine's. before: what might serve since it was asked for."""
        fault = await asyncio.get_running_loop().run_in_executor(self.threads, sample.fault, digest, body)
        if not fault and digest in self.photos and digest not in before:
            fault = "made by weights that were not in service any more"
        if fault:
            self.ledger.wrong.append(f"{who}, {sample.name}: {fault}")
        else:
            self.ledger.right += 1
            self.ledger.digests[digest] += 1
            self.ledger.pixels += sample.pixels

    def expect(self, who: str, answer: Answer, *statuses: int) -> bool:
        """Count the status; whether it is the first of those that may be. Others are faults."""
        self.ledger.count(who, answer.status)
        if answer.status not in (*statuses, *BUSY):
            self.ledger.faults.append(f"{who}: {answer.status}, not {statuses}: {answer.body[:300]!r}")
        if answer.status == 503 and not answer.headers.get("retry-after", "").isdecimal():
            self.ledger.faults.append(f"{who}: 503 that does not say when to come again: {answer.body[:300]!r}")
        return answer.status == statuses[0]


Visit = Callable[[Town, random.Random], Awaitable[None]]


async def image(town: Town, rng: random.Random, slow_up: bool = False, slow_down: bool = False) -> None:
    """An image or two on one connection, until they are answered with images."""
    who = "slow upload" if slow_up else "slow reader" if slow_down else "image"
    async with connected(town.port, slow_down) as connection:
        for sample in [pick(rng, town.samples) for _ in range(rng.choice([1, 1, 2]))]:
            await _surely(town, who, connection, sample, slow_up, slow_down)


async def _surely(
    town: Town, who: str, connection: Connection, sample: Sample, slow_up: bool, slow_down: bool
) -> None:
    while connection.open:
        before = town.asking()
        answer = await connection.ask(f"POST /denoise{sample.query}", sample.body, slow_up, slow_down)
        if town.expect(who, answer, 200):
            await town.check(who, sample, answer.headers.get("x-denoise-digest", "none"), answer.body, before)
            return
        if town.closing.is_set():
            return
        await asyncio.sleep(RETRY)


async def form(town: Town, rng: random.Random) -> None:
    """An image as a browser sends it."""
    sample = pick(rng, town.samples)
    boundary = f"b{rng.getrandbits(64)}"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    body = head.encode() + sample.body + f"\r\n--{boundary}--\r\n".encode()
    before = town.asking()
    async with connected(town.port) as connection:
        kind = f"multipart/form-data; boundary={boundary}"
        answer = await connection.ask(f"POST /denoise{sample.query}", body, kind=kind)
    if town.expect("form", answer, 200):
        await town.check("form", sample, answer.headers.get("x-denoise-digest", "none"), answer.body, before)


class Broken(NamedTuple):
    """A request that cannot be answered with an image."""

    head: str
    body: bytes
    statuses: tuple[int, ...]


def _broken(sample: Sample) -> Sequence[Broken]:
    return (
        Broken("POST /denoise", sample.body[: len(sample.body) // 2], (400,)),
        Broken("POST /denoise", b"no image at all", (400,)),
        Broken("POST /denoise", b"", (400,)),
        Broken("POST /denoise?model=none", sample.body, (404,)),
        Broken("POST /denoise?quality=0", sample.body, (422,)),
        Broken("POST /denoise/batch", b"PK\3\4no zip", (400,)),
        Broken("POST /nowhere", sample.body, (404,)),
    )


async def broken(town: Town, rng: random.Random) -> None:
    """What is no image, or no request of ours."""
    case = rng.choice(_broken(town.samples[0]))
    answer = await ask(town.port, case.head, case.body)
    town.expect("broken", answer, *case.statuses)


async def leave(town: Town, rng: random.Random) -> None:
    """Go away: before the body, in it, while it is worked on, or in the middle of the answer."""
    sample, stage, rudely = pick(rng, town.samples), rng.randrange(4), rng.random() < 0.5
    head = f"POST /denoise{sample.query}"
    async with connected(town.port, slow=True) as connection:
        half = len(sample.body) // 2
        sent = (b"", sample.body[:half], sample.body, sample.body)[stage]
        try:
            await connection.send(head, sent, claimed=len(sample.body))
            if stage == 3:
                await connection.read_head()
            else:
                await asyncio.sleep(rng.random() * 0.5)
        except (OSError, EOFError) as error:
            town.ledger.faults.append(f"leaves: {type(error).__name__}: {error}")
        connection.close(rudely)
    town.ledger.count("leaves", ("before its body", "in its body", "in work", "in the answer")[stage])


async def too_long(town: Town, rng: random.Random) -> None:
    """A body that says it has a million megabytes, and is refused before they come."""
    async with connected(town.port) as connection:
        try:
            await connection.send("POST /denoise", b"x" * MEGABYTE, claimed=2**40)
            status, _ = await connection.read_head()
        except (OSError, EOFError):
            town.ledger.faults.append("too long: no answer")
            return
    town.ledger.count("too long", status)
    if status not in (413, *BUSY):
        town.ledger.faults.append(f"too long: {status}")


async def batch(town: Town, rng: random.Random) -> None:
    """A zip of images, one of which is none."""
    plain = [sample for sample in town.small if not sample.wishes]
    sent = [pick(rng, plain) for _ in range(rng.randrange(2, 6))]
    at = rng.randrange(len(sent))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, sample in enumerate(sent):
            archive.writestr(f"{number}.x", b"no image" if number == at else sample.body)
    before = town.asking()
    answer = await ask(town.port, "POST /denoise/batch", file.getvalue())
    if town.expect("batch", answer, 200):
        await _check_zip(town, sent, at, answer.body, before)


async def _check_zip(town: Town, sent: Sequence[Sample], at: int, body: bytes, before: set[str]) -> None:
    try:
        archive = zipfile.ZipFile(io.BytesIO(body))
        files = [(info, archive.read(info)) for info in archive.infolist()]
    except zipfile.BadZipFile as error:
        town.ledger.wrong.append(f"batch: {error}")
        return
    if len(files) != len(sent):
        town.ledger.wrong.append(f"batch: {len(files)} files of {len(sent)}")
    for number, (sample, (info, data)) in enumerate(zip(sent, files, strict=False)):
        problem = json.loads(data) if info.filename.endswith(".error.json") else None
        if problem and (number == at or problem["status"] in BUSY):
            town.ledger.count("batch's file", problem["status"])
        elif problem or number == at:
            town.ledger.wrong.append(f"batch: {info.filename}, {problem}")
        else:
            told = dict(line.split(": ", 1) for line in info.comment.decode().split("\n"))
            await town.check("batch", sample, told["X-Denoise-Digest"], data, before)


async def job(town: Town, rng: random.Random) -> None:
    """An image that is left there, and asked for until it is done."""
    sample, before = pick(rng, town.small), town.asking()
    answer = await ask(town.port, f"POST /jobs{sample.query}", sample.body)
    # 507 where jobs come faster than they are done.
    if not town.expect("job", answer, 202, 507):
        return
    place = answer.headers["location"]
    state = ""
    while state not in ("done", "failed"):
        await asyncio.sleep(0.2)
        state = json.loads((await ask(town.port, f"GET {place}")).body)["state"]
    result = await ask(town.port, f"GET {place}/result")
    if town.expect("job's result", result, 200):
        await town.check("job", sample, result.headers.get("x-denoise-digest", "none"), result.body, before)
    town.expect("job taken away", await ask(town.port, f"DELETE {place}"), 204)


# What comes next, and how often beside others.
VISITS: dict[Visit, float] = {
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


async def live(town: Town, seed: int, visits: dict[Visit, float]) -> None:
    """One client after another, until the town closes; whoever is there then is answered first."""
    rng = random.Random(seed)
    while not town.closing.is_set():
        visit = rng.choices(list(visits), list(visits.values()))[0]
        try:
            async with asyncio.timeout(PATIENCE):
                await visit(town, rng)
        except (Dropped, TimeoutError) as error:
            town.ledger.count("dropped", type(error).__name__)
            town.ledger.faults.append(f"{_name(visit)}: {type(error).__name__}: {error}")


def _name(visit: Visit) -> str:
    inner = visit.func if isinstance(visit, partial) else visit
    return getattr(inner, "__name__", str(visit))


async def crowd(town: Town, count: int, seconds: float, visits: dict[Visit, float]) -> float:
    """So many clients for so long. Gives the pixels a second that were answered right in that time."""
    loop = asyncio.get_running_loop()
    start, before = loop.time(), town.ledger.pixels
    clients = [asyncio.create_task(live(town, seed, visits)) for seed in range(count)]
    try:
        await asyncio.sleep(seconds)
        speed = (town.ledger.pixels - before) / (loop.time() - start)
        town.closing.set()
        await asyncio.gather(*clients)
    finally:
        town.closing.clear()
        for client in clients:
            client.cancel()
    return speed
