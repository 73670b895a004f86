"""Crash test: `kill -9` under load and a restart. Clients that retry and accepted jobs must lose nothing."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass

from .clients import RETRY, LoadRun
from .process import Service, gone
from .rows import Row, none_of
from .samples import Sample, pick
from .wire import Dropped, ask

# Everything must be answered by then, in seconds.
TIMEOUT = 240


@dataclass(frozen=True)
class AcceptedJob:
    """A job that was answered with 202. request: the request ID, which the log has too."""

    place: str
    request: str
    sample: Sample

    @property
    def id(self) -> str:
        """The job's ID, as in the list of jobs."""
        return self.place.rpartition("/")[2]


async def crash(service: Service, run: LoadRun, clients: int, posts: int, jobs: int) -> list[Row]:
    """Kill and restart the service. posts: images that each client wants; jobs: posted before the kill."""
    waiting = [asyncio.create_task(_post_all(run, seed, posts)) for seed in range(clients)]
    try:
        async with asyncio.timeout(TIMEOUT):
            accepted = await _post_jobs(run, jobs)
            await _until_done(run, accepted[0])
            clients_done = sum(task.done() for task in waiting)
            jobs_done = sum([await _state(run, job) == "done" for job in accepted])
            children = await service.kill()
            orphans = not await gone(children)
            seconds = await service.start()
            delivered = [await _result(run, job) for job in accepted]
            correct = sum(await asyncio.gather(*waiting))
            listed = [job["id"] for job in json.loads((await ask(run.port, "GET /jobs")).body)]
    except TimeoutError:
        return [Row("kill and restart", f"finished in {TIMEOUT} s", "not finished", False)]
    finally:
        for task in waiting:
            task.cancel()
    done = Counter(line["request_id"] for line in service.logged("job"))
    repeated = [job.id for job in accepted if done[job.request] > 1]
    same = sorted(listed) == sorted(job.id for job in accepted)
    busy, done_before = clients_done < clients and jobs_done < jobs, f"{clients_done} / {jobs_done}"
    return [
        Row("clients / jobs done before", f"not all of {clients} / {jobs}", done_before, busy),
        Row("processes left by the kill", "none", f"some of {len(children)}" if orphans else "none", not orphans),
        Row("back after kill -9", "", f"{seconds:.1f} s"),
        Row("images of clients that retry", f"{clients * posts}", str(correct), correct == clients * posts),
        Row("jobs accepted before the kill", f"{jobs} delivered", str(sum(delivered)), all(delivered)),
        Row("jobs listed after the restart", "the same", str(len(listed)), same),
        none_of("jobs that were done twice", repeated),
    ]  # fmt: skip


async def _post_jobs(run: LoadRun, count: int) -> list[AcceptedJob]:
    rng, accepted = random.Random(0), list[AcceptedJob]()
    while len(accepted) < count:
        sample = pick(rng, run.samples)
        answer = await ask(run.port, f"POST /jobs{sample.query}", sample.body)
        if run.expect("job before the kill", answer, 202):
            accepted.append(AcceptedJob(answer.headers["location"], answer.headers["x-request-id"], sample))
    return accepted


async def _state(run: LoadRun, job: AcceptedJob) -> str:
    state: str = json.loads((await ask(run.port, f"GET {job.place}")).body)["state"]
    return state


async def _until_done(run: LoadRun, job: AcceptedJob) -> None:
    """Waits until the job has ended, whether it succeeded or failed."""
    while await _state(run, job) in ("waiting", "running"):
        await asyncio.sleep(0.05)


async def _post_all(run: LoadRun, seed: int, count: int) -> int:
    """Post images one after another, each until it is answered with an image. Returns how many were correct."""
    rng, correct = random.Random(seed), 0
    for _ in range(count):
        sample = pick(rng, run.samples)
        while (answer := await _try(run, sample)) is None:
            await asyncio.sleep(RETRY)
        if fault := sample.fault(*answer):
            run.results.wrong.append(f"around the kill, {sample.name}: {fault}")
        else:
            correct += 1
    return correct


async def _try(run: LoadRun, sample: Sample) -> tuple[str, bytes] | None:
    """Digest and image; None if the client must retry."""
    try:
        answer = await ask(run.port, f"POST /denoise{sample.query}", sample.body)
    except Dropped:
        run.results.count("around the kill", "dropped")
        return None
    if run.expect("around the kill", answer, 200):
        return answer.headers["x-denoise-digest"], answer.body
    return None


async def _result(run: LoadRun, job: AcceptedJob) -> bool:
    """Waits for a job and returns whether its result is correct."""
    await _until_done(run, job)
    answer = await ask(run.port, f"GET {job.place}/result")
    delivered = run.expect("job after the kill", answer, 200)
    if delivered and (fault := job.sample.fault(answer.headers["x-denoise-digest"], answer.body)):
        run.results.wrong.append(f"job after the kill, {job.sample.name}: {fault}")
        return False
    return delivered
