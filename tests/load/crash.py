"""kill -9 under load, and a restart: what clients that try again lose, and what becomes of jobs."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass

from .clients import RETRY, Town
from .process import Service, gone
from .rows import Row, none_of
from .samples import Sample, pick
from .wire import Dropped, ask

# Whoever has not got all of it by then has lost it.
SECONDS = 240


@dataclass(frozen=True)
class Left:
    """A job that was accepted. request: the id by which the log tells of it."""

    place: str
    request: str
    sample: Sample

    @property
    def id(self) -> str:
        """As the list of jobs has it."""
        return self.place.rpartition("/")[2]


async def crash(service: Service, town: Town, clients: int, posts: int, jobs: int) -> list[Row]:
    """posts: images that each client wants; jobs: that are left before the kill."""
    wanting = [asyncio.create_task(_insist(town, seed, posts)) for seed in range(clients)]
    try:
        async with asyncio.timeout(SECONDS):
            left = await _leave_jobs(town, jobs)
            await _until_done(town, left[0])
            over = sum(task.done() for task in wanting), sum([await _state(town, job) == "done" for job in left])
            children = await service.kill()
            orphans = not await gone(children)
            seconds = await service.start()
            results = [await _result(town, job) for job in left]
            got = sum(await asyncio.gather(*wanting))
            listed = [job["id"] for job in json.loads((await ask(town.port, "GET /jobs")).body)]
    except TimeoutError:
        return [Row("kill and restart", f"over in {SECONDS} s", "not", False)]
    finally:
        for task in wanting:
            task.cancel()
    made = Counter(line["request_id"] for line in service.logged("job"))
    again = [job.id for job in left if made[job.request] > 1]
    same = sorted(listed) == sorted(job.id for job in left)
    busy = over[0] < clients and over[1] < jobs
    return [
        Row("clients / jobs done before", f"not all of {clients} / {jobs}", f"{over[0]} / {over[1]}", busy),
        Row("processes left by the kill", "none", f"some of {len(children)}" if orphans else "none", not orphans),
        Row("back after kill -9", "in seconds", f"{seconds:.1f} s"),
        Row("images of clients that try again", f"{clients * posts}", str(got), got == clients * posts),
        Row("jobs accepted before the kill", f"{jobs} delivered", str(sum(results)), all(results)),
        Row("jobs that are listed then", "the same", str(len(listed)), same),
        none_of("jobs that were done twice", again),
    ]  # fmt: skip


async def _leave_jobs(town: Town, count: int) -> list[Left]:
    rng, left = random.Random(0), list[Left]()
    while len(left) < count:
        sample = pick(rng, town.samples)
        answer = await ask(town.port, f"POST /jobs{sample.query}", sample.body)
        if town.expect("job before the kill", answer, 202):
            left.append(Left(answer.headers["location"], answer.headers["x-request-id"], sample))
    return left


async def _state(town: Town, job: Left) -> str:
    state: str = json.loads((await ask(town.port, f"GET {job.place}")).body)["state"]
    return state


async def _until_done(town: Town, job: Left) -> None:
    """Whether or not it succeeds."""
    while await _state(town, job) in ("waiting", "running"):
        await asyncio.sleep(0.05)


async def _insist(town: Town, seed: int, count: int) -> int:
    """So many images, each asked for until it comes. Gives how many came right."""
    rng, right = random.Random(seed), 0
    for _ in range(count):
        sample = pick(rng, town.samples)
        while (answer := await _try(town, sample)) is None:
            await asyncio.sleep(RETRY)
        if fault := sample.fault(*answer):
            town.ledger.wrong.append(f"about the kill, {sample.name}: {fault}")
        else:
            right += 1
    return right


async def _try(town: Town, sample: Sample) -> tuple[str, bytes] | None:
    """Digest and image; None if it has to be asked for again."""
    try:
        answer = await ask(town.port, f"POST /denoise{sample.query}", sample.body)
    except Dropped:
        town.ledger.count("about the kill", "dropped")
        return None
    if town.expect("about the kill", answer, 200):
        return answer.headers["x-denoise-digest"], answer.body
    return None


async def _result(town: Town, job: Left) -> bool:
    """Whether it is right, when it is done."""
    await _until_done(town, job)
    answer = await ask(town.port, f"GET {job.place}/result")
    right = town.expect("job after the kill", answer, 200)
    if right and (fault := job.sample.fault(answer.headers["x-denoise-digest"], answer.body)):
        town.ledger.wrong.append(f"job after the kill, {job.sample.name}: {fault}")
        return False
    return right
