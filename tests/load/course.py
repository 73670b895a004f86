"""The whole course: at rest, one client, all with new weights meanwhile, one client again; then the kill."""

import asyncio
import json
import math
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

from engine.system.runtime import lower_priority

from .clients import VISITS, Town, crowd, image
from .crash import crash
from .process import Service, probed, probing
from .rows import Row, milliseconds, none_of, percentile
from .samples import MODEL, PRECISION, Folder, samples
from .wire import ask

T = TypeVar("T")

HEALTH_SECONDS = 0.050
GROWTH = 0.05
SPEED = 0.85
# Of the time under load, after which memory has what it will have.
WARM = 1 / 5
# Between two looks at the weights folder.
LOOK_SECONDS = 1
# Beyond those at the start: what the libraries open once.
DESCRIPTORS = 8
# In seconds; what takes longer is not there.
SOON = 30


@dataclass(frozen=True)
class Plan:
    """seconds: of load; alone: of one client, before and after; largest: image, in pixels.

    posts, jobs: before the kill and after it, of each client, and of all.
    """

    seconds: float
    clients: int
    alone: float
    largest: int = 10_000_000
    posts: int = 6
    jobs: int = 12


async def run(plan: Plan) -> list[Row]:
    """Everything, with a service of its own."""
    # As much as the service's threads leave: what the engine answers is computed before.
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(prefix="denoise-load-") as name:
        folder = Path(name)
        weights = Folder(folder / "weights")
        _say("the engine's own answers")
        sent = tuple(samples(weights.models, plan.largest))
        torch.set_num_threads(1)
        settings = {
            "weights": weights.path,
            "weights_interval": LOOK_SECONDS,
            "precision": PRECISION,
            "model": MODEL,
            # So few that some are refused.
            "max_waiting": plan.clients // 4,
        }
        with (
            Service(folder, **settings) as service,
            # To look at an image is arithmetic as well, and gives way as the service's does.
            ThreadPoolExecutor(1, "checks", initializer=lower_priority) as threads,
        ):
            started = await service.start()
            photos = (weights.first, weights.second)
            town = Town(service.port, sent, photos, {weights.first}, threads)
            rows = await _load(plan, service, town, weights, folder)
            _say("kill and restart")
            rows += await crash(service, town, plan.clients, plan.posts, plan.jobs)
            code = await service.stop()
            rows.append(Row("SIGTERM in the end", "exit code 0", str(code), code == 0))
            return [*_outcomes(service, town), Row("start", "", f"{started:.1f} s"), *rows]


def _outcomes(service: Service, town: Town) -> Iterator[Row]:
    ledger = town.ledger
    by_each = [ledger.digests[digest] for digest in town.photos]
    yield Row("images answered right", "", f"{ledger.right}, {ledger.pixels / 1e6:.0f} megapixels")
    yield Row("of them by old and new weights", "some by each", "{} and {}".format(*by_each), all(by_each))
    yield none_of("wrong images", ledger.wrong)
    yield none_of("other answers than by design", ledger.faults)
    yield none_of("errors in the log", service.faults())
    for what, count in sorted(ledger.statuses.items()):
        yield Row(what, "", str(count))


async def _load(plan: Plan, service: Service, town: Town, weights: Folder, folder: Path) -> list[Row]:
    await _each_once(town)
    _say("at rest")
    with probing(town.port, folder / "rest"):
        await asyncio.sleep(plan.alone / 2)
    descriptors = service.descriptors
    _say("one client")
    alone = [await crowd(town, 1, plan.alone, {image: 1})]
    _say(f"{plan.clients} clients")
    memory: list[int] = []
    with (
        probing(town.port, folder / "load"),
        _sampled(service, memory),
        _beside(_swap(town, weights, plan)) as swap,
    ):
        together = await crowd(town, plan.clients, plan.seconds, VISITS)
        swapped = await swap
    rest = await _at_rest(service, town, descriptors)
    _say("one client again")
    alone.append(await crowd(town, 1, plan.alone, {image: 1}))
    return [
        Row("new weights served", "2 times", swapped, swapped.startswith("2 times") and ";" not in swapped),
        *rest,
        _memory(memory),
        *_health(probed(folder / "rest"), probed(folder / "load")),
        _speed(together, alone, plan.clients),
    ]


async def _each_once(town: Town) -> None:
    """Before anything is measured: whatever is loaded at the first use, and whether answers are right at all."""
    for sample in town.samples:
        answer = await ask(town.port, f"POST /denoise{sample.query}", sample.body)
        if town.expect("first", answer, 200):
            digest = answer.headers.get("x-denoise-digest", "none")
            await town.check("first", sample, digest, answer.body, town.asking())


async def _swap(town: Town, weights: Folder, plan: Plan) -> str:
    """New weights at a third of the time and at two thirds, and in between a file that is no good."""
    seconds = []
    for _ in range(2):
        await asyncio.sleep(plan.seconds / 3)
        seconds.append(await _serve_the_other(town, weights))
        weights.spoil()
    told = await _until(town, lambda health: len(health["faults"]) == 1)
    times = sum(map(math.isfinite, seconds))
    return f"{times} times, in {max(seconds):.1f} s" + (
        "" if told else "; nothing said of the file that is no good"
    )


async def _serve_the_other(town: Town, weights: Folder) -> float:
    """Put the other `photo` in service. Gives the seconds it took; inf if it is not served."""
    clock = asyncio.get_running_loop().time
    digest, begun = weights.swap(), clock()
    town.serve(digest)
    if not await _until(town, lambda health: digest in health["digests"].values()):
        return math.inf
    town.serving.intersection_update({digest})
    return clock() - begun


async def _until(town: Town, true: Callable[[Any], bool]) -> bool:
    """Whether /health says so before long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SOON):
            while not true(json.loads((await ask(town.port, "GET /health")).body)):
                await asyncio.sleep(0.2)
            return True
    return False


async def _at_rest(service: Service, town: Town, before: int) -> list[Row]:
    """What is left when everybody has gone."""
    idle = await _until(town, lambda health: health["denoising"] == health["waiting"] == 0)
    with suppress(TimeoutError):
        async with asyncio.timeout(SOON):
            while service.descriptors > before + DESCRIPTORS:
                await asyncio.sleep(0.2)
    after = service.descriptors
    return [
        Row("work left when all are gone", "none", "none" if idle else "some", idle),
        Row(
            "files and connections open",
            f"at most {before} + {DESCRIPTORS}",
            str(after),
            after <= before + DESCRIPTORS,
        ),
    ]


def _memory(samples: list[int]) -> Row:
    """Of the time after warm-up, the last third beside the first."""
    warm = samples[int(len(samples) * WARM) :]
    third = len(warm) // 3
    if not third or not warm[0]:
        return Row("resident memory", f"grows by less than {GROWTH:.0%}", "not measured", timed=True)
    first, last = median(warm[:third]), median(warm[-third:])
    growth = last / first - 1
    told = f"{first / 2**20:.0f} MiB, then {last / 2**20:.0f}: {growth:+.1%}; at most {max(samples) / 2**20:.0f}"
    return Row(
        "resident memory after warm-up", f"grows by less than {GROWTH:.0%}", told, growth < GROWTH, timed=True
    )


def _health(rest: list[float], load: list[float]) -> Iterator[Row]:
    yield Row("/health at rest: median / p99 / most", "", milliseconds(rest))
    p99 = percentile(load, 0.99)
    asked = f"p99 under {HEALTH_SECONDS * 1000:.0f} ms"
    yield Row(
        "/health under load: median / p99 / most", asked, milliseconds(load), p99 < HEALTH_SECONDS, timed=True
    )


def _speed(together: float, alone: list[float], clients: int) -> Row:
    share = together / max(1.0, sum(alone) / len(alone))
    single = " and ".join(f"{each / 1e6:.2f}" for each in alone)
    told = f"{share:.0%}: {together / 1e6:.2f} megapixels a second; one client {single}"
    return Row(f"speed of {clients} clients", f"at least {SPEED:.0%} of one's", told, share >= SPEED, timed=True)


@contextmanager
def _sampled(service: Service, into: list[int]) -> Iterator[None]:
    """Meanwhile, the service's memory, every second."""

    async def sample() -> None:
        while True:
            into.append(await asyncio.to_thread(lambda: service.memory))
            await asyncio.sleep(1)

    with _beside(sample()):
        yield


@contextmanager
def _beside(work: Coroutine[Any, Any, T]) -> Iterator[asyncio.Task[T]]:
    """Meanwhile, something else."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)
