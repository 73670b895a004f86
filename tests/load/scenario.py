"""Scenario of the load test.

The steps: idle, one client, all clients while the weights change, one client again, kill and restart.
"""

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

from .clients import BEHAVIOURS, LoadRun, image, run_clients
from .crash import crash
from .process import Service, probed, probing
from .rows import Row, milliseconds, none_of, percentile
from .samples import MODEL, PRECISION, WeightsFolder, samples
from .wire import ask

T = TypeVar("T")

# Required: the 99th percentile of /health under load, in seconds.
HEALTH_SECONDS = 0.050
# Required: memory grows by less than this share after warm-up.
GROWTH = 0.05
# Required: all clients together get at least this share of one client's pixels a second.
SPEED = 0.85
# Warm-up: this share of the time under load.
WARM_UP = 1 / 5
# Interval at which the service looks for new weights, in seconds.
WEIGHTS_INTERVAL = 1
# Open files and connections that the libraries may add to those at the start.
EXTRA_DESCRIPTORS = 8
# Patience for a change that /health should show, in seconds.
TIMEOUT = 30


@dataclass(frozen=True)
class Plan:
    """seconds: under load; alone: each time with one client; largest: of the images, in pixels.

    posts: images of each client around the kill. jobs: all that are posted before the kill.
    """

    seconds: float
    clients: int
    alone: float
    largest: int = 10_000_000
    posts: int = 6
    jobs: int = 12


async def run(plan: Plan) -> list[Row]:
    """Run the whole scenario with a service of its own."""
    # As many threads as the service leaves free: the engine's results are computed first.
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(prefix="denoise-load-") as name:
        folder = Path(name)
        weights = WeightsFolder(folder / "weights")
        _say("computing the engine's results")
        sent = tuple(samples(weights.models, plan.largest))
        torch.set_num_threads(1)
        settings = {
            "weights": weights.path,
            "weights_interval": WEIGHTS_INTERVAL,
            "precision": PRECISION,
            "model": MODEL,
            # Few enough that some requests are refused.
            "max_waiting": plan.clients // 4,
        }
        with (
            Service(folder, **settings) as service,
            # Checking an image takes processor time, so it runs at low priority, as the service's work does.
            ThreadPoolExecutor(1, "checks", initializer=lower_priority) as threads,
        ):
            started = await service.start()
            photos = (weights.first, weights.second)
            state = LoadRun(service.port, sent, photos, {weights.first}, threads)
            rows = await _load(plan, service, state, weights, folder)
            _say("kill and restart")
            rows += await crash(service, state, plan.clients, plan.posts, plan.jobs)
            code = await service.stop()
            rows.append(Row("SIGTERM at the end", "exit code 0", str(code), code == 0))
            return [*_outcomes(service, state), Row("start", "", f"{started:.1f} s"), *rows]


def _outcomes(service: Service, state: LoadRun) -> Iterator[Row]:
    results = state.results
    by_weights = [results.digests[digest] for digest in state.photos]
    yield Row("correct images", "", f"{results.correct}, {results.pixels / 1e6:.0f} megapixels")
    yield Row("of them by old and new weights", "some by each", "{} and {}".format(*by_weights), all(by_weights))
    yield none_of("wrong images", results.wrong)
    yield none_of("unexpected responses", results.faults)
    yield none_of("errors in the log", service.faults())
    for name, count in sorted(results.statuses.items()):
        yield Row(name, "", str(count))


async def _load(plan: Plan, service: Service, state: LoadRun, weights: WeightsFolder, folder: Path) -> list[Row]:
    await _each_once(state)
    _say("idle")
    with probing(state.port, folder / "idle"):
        await asyncio.sleep(plan.alone / 2)
    descriptors = service.descriptors
    _say("one client")
    alone = [await run_clients(state, 1, plan.alone, {image: 1})]
    _say(f"{plan.clients} clients")
    memory: list[int] = []
    with (
        probing(state.port, folder / "load"),
        _sampled(service, memory),
        _beside(_swap(state, weights, plan)) as swap,
    ):
        together = await run_clients(state, plan.clients, plan.seconds, BEHAVIOURS)
        swapped = await swap
    leftovers = await _leftovers(service, state, descriptors)
    _say("one client again")
    alone.append(await run_clients(state, 1, plan.alone, {image: 1}))
    return [
        Row("new weights served", "2 times", swapped, swapped.startswith("2 times") and ";" not in swapped),
        *leftovers,
        _memory(memory),
        *_health(probed(folder / "idle"), probed(folder / "load")),
        _speed(together, alone, plan.clients),
    ]


async def _each_once(state: LoadRun) -> None:
    """Send every sample once before measuring: this loads what is loaded lazily, and checks the results."""
    for sample in state.samples:
        answer = await ask(state.port, f"POST /denoise{sample.query}", sample.body)
        if state.expect("first", answer, 200):
            digest = answer.headers.get("x-denoise-digest", "none")
            await state.check("first", sample, digest, answer.body, state.begin_request())


async def _swap(state: LoadRun, weights: WeightsFolder, plan: Plan) -> str:
    """New weights after one third and two thirds of the time, and in between a broken file."""
    seconds = []
    for _ in range(2):
        await asyncio.sleep(plan.seconds / 3)
        seconds.append(await _serve_the_other(state, weights))
        weights.add_broken_file()
    reported = await _until(state, lambda health: len(health["faults"]) == 1)
    times = sum(map(math.isfinite, seconds))
    return f"{times} times, in {max(seconds):.1f} s" + (
        "" if reported else "; /health does not report the broken file"
    )


async def _serve_the_other(state: LoadRun, weights: WeightsFolder) -> float:
    """Put the other `photo` into service. Returns the seconds until it serves; inf if it never does."""
    clock = asyncio.get_running_loop().time
    digest, begun = weights.swap(), clock()
    state.start_serving(digest)
    if not await _until(state, lambda health: digest in health["digests"].values()):
        return math.inf
    state.serving.intersection_update({digest})
    return clock() - begun


async def _until(state: LoadRun, true: Callable[[Any], bool]) -> bool:
    """Waits until a condition on /health is true. Returns False after TIMEOUT."""
    with suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT):
            while not true(json.loads((await ask(state.port, "GET /health")).body)):
                await asyncio.sleep(0.2)
            return True
    return False


async def _leftovers(service: Service, state: LoadRun, before: int) -> list[Row]:
    """What is left after all clients have gone."""
    idle = await _until(state, lambda health: health["denoising"] == health["waiting"] == 0)
    with suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT):
            while service.descriptors > before + EXTRA_DESCRIPTORS:
                await asyncio.sleep(0.2)
    after = service.descriptors
    return [
        Row("work left after all clients have gone", "none", "none" if idle else "some", idle),
        Row(
            "open files and connections",
            f"at most {before} + {EXTRA_DESCRIPTORS}",
            str(after),
            after <= before + EXTRA_DESCRIPTORS,
        ),
    ]


def _memory(samples: list[int]) -> Row:
    """Compares the last third of the time after warm-up with the first."""
    warm = samples[int(len(samples) * WARM_UP) :]
    third = len(warm) // 3
    if not third or not warm[0]:
        return Row("resident memory", f"grows by less than {GROWTH:.0%}", "not measured", timed=True)
    first, last = median(warm[:third]), median(warm[-third:])
    growth = last / first - 1
    measured = (
        f"{first / 2**20:.0f} MiB, then {last / 2**20:.0f}: {growth:+.1%}; at most {max(samples) / 2**20:.0f}"
    )
    return Row(
        "resident memory after warm-up",
        f"grows by less than {GROWTH:.0%}",
        measured,
        growth < GROWTH,
        timed=True,
    )


def _health(idle: list[float], load: list[float]) -> Iterator[Row]:
    yield Row("/health when idle: median / p99 / maximum", "", milliseconds(idle))
    p99 = percentile(load, 0.99)
    required = f"p99 under {HEALTH_SECONDS * 1000:.0f} ms"
    yield Row(
        "/health under load: median / p99 / maximum",
        required,
        milliseconds(load),
        p99 < HEALTH_SECONDS,
        timed=True,
    )


def _speed(together: float, alone: list[float], clients: int) -> Row:
    share = together / max(1.0, sum(alone) / len(alone))
    single = " and ".join(f"{each / 1e6:.2f}" for each in alone)
    measured = f"{share:.0%}: {together / 1e6:.2f} megapixels a second; one client {single}"
    return Row(
        f"speed of {clients} clients", f"at least {SPEED:.0%} of one's", measured, share >= SPEED, timed=True
    )


@contextmanager
def _sampled(service: Service, into: list[int]) -> Iterator[None]:
    """Inside the block, appends the service's memory every second."""

    async def sample() -> None:
        while True:
            into.append(await asyncio.to_thread(lambda: service.memory))
            await asyncio.sleep(1)

    with _beside(sample()):
        yield


@contextmanager
def _beside(work: Coroutine[Any, Any, T]) -> Iterator[asyncio.Task[T]]:
    """Runs a task during the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


def _say(step: str) -> None:
    print(f"{step} ...", file=sys.stderr, flush=True)
