"""Scheduler: which images are admitted, wait or are refused. Events decide each test, not the clock."""

import asyncio
import gc
import math
import threading
import weakref
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
import torch

from service.runtime import inference_queue, ticket
from service.runtime import scheduler as scheduler_module
from service.runtime.scheduler import (
    LARGE_AT_ONCE,
    MAX_OVERTAKING,
    SMALL_AT_ONCE,
    Cancelled,
    OutOfTime,
    QueueFull,
    Scheduler,
    TooMuchMemory,
)
from service.runtime.ticket import Load, MemoryShare
from service.settings import Settings
from tests.support.windows import SOON, Net, window

MEMORY = 2**24
SMALL = Load(100, MEMORY // 64)
LARGE = Load(1000, MEMORY // 8)


async def nobody_leaves():
    await asyncio.Event().wait()


async def leaves():
    """It has left already."""


def scheduled(main, **settings):
    """Runs `main(scheduler)`, a coroutine."""

    async def run():
        with Scheduler(Settings(image_memory=MEMORY, **settings)) as scheduler:
            return await asyncio.wait_for(main(scheduler), SOON)

    return asyncio.run(run())


class Crowd:
    """Images that come one after the other; each stays in work until it is let go."""

    def __init__(self, scheduler):
        self.scheduler, self.order, self.leave, self.tasks = scheduler, [], {}, {}

    @property
    def begun(self):
        """The admitted images, in order."""
        return list(self.order)

    async def come(self, name, load=LARGE, disconnected=nobody_leaves, **how):
        self.leave[name] = asyncio.Event()

        async def image():
            async with self.scheduler.admit(disconnected, load, **how):
                self.order.append(name)
                await self.leave[name].wait()

        self.tasks[name] = asyncio.create_task(image())
        await self.settle()

    async def go(self, *names):
        for name in names:
            self.leave[name].set()
            await self.tasks.pop(name)
        await self.settle()

    async def settle(self):
        for _ in range(5):
            await asyncio.sleep(0)

    async def error_of(self, name):
        with pytest.raises(scheduler_module.ProblemError) as caught:
            await self.tasks.pop(name)
        return caught.value

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        for name in list(self.tasks):
            self.leave[name].set()
        await asyncio.gather(*self.tasks.values())


def crowded(main, **settings):
    async def run(scheduler):
        async with Crowd(scheduler) as crowd:
            return await main(crowd)

    return scheduled(run, **settings)


# Admission


def test_a_few_large_images_are_in_work_and_others_wait():
    async def main(crowd):
        for number in range(LARGE_AT_ONCE + 2):
            await crowd.come(number)
        counts = (crowd.scheduler.in_work, crowd.scheduler.waiting)
        pixels = (crowd.scheduler.pixels_in_work, crowd.scheduler.pixels_waiting)
        first = crowd.begun
        await crowd.go(1)
        await crowd.go(0)
        return counts, pixels, first, crowd.begun

    counts, pixels, first, begun = crowded(main)

    assert counts == (LARGE_AT_ONCE, 2)
    assert pixels == (LARGE_AT_ONCE * LARGE.pixels, 2 * LARGE.pixels)
    assert first == list(range(LARGE_AT_ONCE))
    assert begun == list(range(LARGE_AT_ONCE + 2))


def test_small_and_large_images_do_not_wait_for_each_other():
    async def main(crowd):
        for number in range(LARGE_AT_ONCE + 1):
            await crowd.come(f"large {number}")
        for number in range(SMALL_AT_ONCE + 1):
            await crowd.come(f"small {number}", SMALL)
        await crowd.go("large 0")
        return crowd.begun

    begun = crowded(main)

    assert begun[LARGE_AT_ONCE : LARGE_AT_ONCE + SMALL_AT_ONCE] == [f"small {n}" for n in range(SMALL_AT_ONCE)]
    assert begun[-1] == f"large {LARGE_AT_ONCE}"


@pytest.mark.parametrize(("load", "fits"), [(Load(1, MEMORY // 2), 1), (Load(1, MEMORY * 3 // 8), 2)])
def test_no_more_is_in_work_than_the_memory_holds(load, fits):
    async def main(crowd):
        for number in range(3):
            await crowd.come(number, load)
        held = crowd.scheduler.memory
        await crowd.go(0)
        return held, crowd.begun

    held, begun = crowded(main)

    assert held == fits * load.memory <= MEMORY
    assert begun == list(range(fits + 1))


def test_an_image_that_waits_for_memory_keeps_its_place():
    async def main(crowd):
        await crowd.come("half", Load(1, MEMORY // 2))
        await crowd.come("most", Load(1, MEMORY * 3 // 4))
        await crowd.come("little", LARGE)
        before = crowd.begun
        await crowd.go("half")
        return before, crowd.begun

    assert crowded(main) == (["half"], ["half", "most"])


def test_an_image_that_never_fits_is_refused_with_both_numbers():
    async def main(crowd):
        await crowd.come("vast", Load(1, MEMORY * 3 // 4 + 1))
        return await crowd.error_of("vast")

    error = crowded(main)

    assert (type(error), error.status) == (TooMuchMemory, 413)
    assert str(MEMORY * 3 // 4 + 1) in str(error)
    assert str(MEMORY * 3 // 4) in str(error)


def test_an_answer_counts_until_its_share_is_released():
    async def main(crowd):
        share = MemoryShare()
        async with crowd.scheduler.admit(nobody_leaves, Load(1, MEMORY // 2)) as ticket:
            ticket.keep(share, MEMORY // 2 - 5)
            in_work = crowd.scheduler.memory
        await crowd.come("next", Load(1, MEMORY // 2))
        before = crowd.scheduler.memory, crowd.begun
        share.release()
        share.release()
        await crowd.settle()
        return in_work, before, crowd.scheduler.memory, crowd.begun

    in_work, before, after, begun = crowded(main)

    assert in_work == after == MEMORY // 2
    assert before == (MEMORY // 2 - 5, [])
    assert begun == ["next"]


# Low-priority work


def test_long_work_lets_others_go_first_but_not_for_ever():
    async def main(crowd):
        for number in range(LARGE_AT_ONCE):
            await crowd.come(number)
        await crowd.come("job", low_priority=True)
        for number in range(LARGE_AT_ONCE, LARGE_AT_ONCE + MAX_OVERTAKING + 2):
            await crowd.come(number)
        for number in range(MAX_OVERTAKING + 1):
            await crowd.go(number)
        waits = crowd.begun
        await crowd.go(MAX_OVERTAKING + 1)
        return waits, crowd.begun

    waits, begun = crowded(main)

    assert "job" not in waits
    assert len(waits) == LARGE_AT_ONCE + MAX_OVERTAKING
    assert begun[-2:] == ["job", LARGE_AT_ONCE + MAX_OVERTAKING]


def test_long_work_leaves_a_place_and_those_of_small_images():
    async def main(crowd):
        for number in range(LARGE_AT_ONCE):
            await crowd.come(f"job {number}", SMALL, low_priority=True)
        await crowd.come("large")
        await crowd.come("small", SMALL)
        return crowd.begun

    assert crowded(main) == [*(f"job {number}" for number in range(LARGE_AT_ONCE - 1)), "large", "small"]


def test_long_work_is_not_refused():
    async def main(crowd):
        await filled(crowd)
        for number in range(3):
            await crowd.come(f"job {number}", low_priority=True)
        return crowd.scheduler.waiting

    assert crowded(main, max_waiting=0) == 3


async def work_on(ticket):
    while True:
        await ticket.in_network(window(Net()))


def test_long_work_has_no_deadline():
    async def main(scheduler):
        async with scheduler.admit(nobody_leaves, LARGE, low_priority=True) as long:
            async with scheduler.admit(nobody_leaves, LARGE) as short:
                with pytest.raises(OutOfTime):
                    await work_on(short)
            return await long.in_thread(lambda: "done")

    assert scheduled(main, deadline=0.05) == "done"


# Refusal


def filled(crowd, load=LARGE, count=LARGE_AT_ONCE):
    return asyncio.gather(*(crowd.come(f"in {number}", load, accepted=True) for number in range(count)))


def test_an_image_too_many_is_refused_and_told_when_to_come():
    async def main(crowd):
        await filled(crowd)
        for number in range(3):
            await crowd.come(number)
        return await crowd.error_of(2), crowd.scheduler.waiting

    error, waiting = crowded(main, max_waiting=2)

    assert (type(error), error.status, waiting) == (QueueFull, 503, 2)
    assert "2 images are waiting; at most 2 may" in str(error)
    assert int(error.headers["Retry-After"]) >= 1


def test_pixels_too_many_are_refused_but_one_image_may_wait():
    async def main(crowd):
        await filled(crowd)
        await crowd.come("first", Load(6000, LARGE.memory))
        await crowd.come("second", Load(500, LARGE.memory))
        error = await crowd.error_of("second")
        await crowd.come("small", SMALL)
        return error, crowd.begun

    error, begun = crowded(main, waiting_pixels=5400)

    assert "6000 pixels are waiting; with this image's 500, at most 5400 may" in str(error)
    assert begun[-1] == "small"


def test_none_may_wait_but_what_fits_goes_in():
    async def main(crowd):
        for number in range(LARGE_AT_ONCE):
            await crowd.come(number)
        await crowd.come("late")
        return await crowd.error_of("late"), crowd.begun

    error, begun = crowded(main, max_waiting=0)

    assert len(begun) == LARGE_AT_ONCE
    assert "0 images are waiting; at most 0 may" in str(error)


def test_what_was_accepted_before_waits_however_many_do():
    async def main(crowd):
        await filled(crowd)
        for number in range(3):
            await crowd.come(number, accepted=True)
        return crowd.scheduler.waiting

    assert crowded(main, max_waiting=1) == 3


def test_an_unread_body_is_refused_only_if_no_size_may_wait():
    async def main(crowd):
        await filled(crowd)
        await crowd.come("large")
        crowd.scheduler.refuse_if_full()
        await asyncio.gather(*(crowd.come(f"small {number}", SMALL) for number in range(SMALL_AT_ONCE)))
        crowd.scheduler.refuse_if_full()
        await crowd.come("small", SMALL)
        with pytest.raises(QueueFull, match="2 images are waiting, the limit"):
            crowd.scheduler.refuse_if_full()

    crowded(main, max_waiting=1)


def test_retry_after_follows_the_work_ahead_and_the_pace(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(scheduler_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    async def main(crowd):
        for _ in range(100):
            await crowd.come("one", Load(2000, LARGE.memory))
            now[0] += 10
            await crowd.go("one")
        await filled(crowd, Load(3000, LARGE.memory))
        await crowd.come("waits", Load(4000, LARGE.memory))
        await crowd.come("late", Load(27_000, LARGE.memory))
        return await crowd.error_of("late")

    error = crowded(main, waiting_pixels=10_000)

    # 200 pixels a second; 9000 are in work, and 21 000 too many would wait.
    assert math.isclose(int(error.headers["Retry-After"]), 30_000 / 200, rel_tol=0.02)


# Request bodies


def test_bodies_take_no_more_memory_than_their_budget():
    async def main(scheduler):
        most = 2**20
        with scheduler.arriving(0) as slow, scheduler.arriving(0) as large, scheduler.arriving(0) as small:
            for _ in range(6):
                slow(most // 8)
            with pytest.raises(QueueFull, match=f"{6 * most // 8} bytes .* at most {most * 3 // 4} may"):
                large(most // 8)
            small(most // 64)
            held = scheduler.body_bytes
        return held, scheduler.body_bytes

    held, left = scheduled(main, body_memory=2**20, max_bytes=1)

    assert held == 6 * 2**20 // 8 + 2**20 // 64
    assert left == 0


def test_room_for_an_announced_body_is_reserved_or_refused():
    async def main(scheduler):
        with scheduler.arriving(2**19) as arrived:
            with pytest.raises(QueueFull), scheduler.arriving(2**19):
                pytest.fail("it was accepted")
            for _ in range(4):
                arrived(2**17)
            held = scheduler.body_bytes
            # More than was announced.
            arrived(1)
        return held, scheduler.body_bytes

    assert scheduled(main, body_memory=2**20, max_bytes=1) == (2**19, 0)


# Stopping


def test_a_client_that_leaves_stops_its_image_at_the_next_window():
    async def main(scheduler):
        async with scheduler.admit(leaves, LARGE) as ticket:
            with pytest.raises(Cancelled):
                await work_on(ticket)
            with pytest.raises(Cancelled):
                await ticket.in_thread(lambda: None)

    scheduled(main)


def test_a_client_that_leaves_waits_no_longer():
    async def main(crowd):
        await filled(crowd)
        disconnected = asyncio.Event()
        await crowd.come("gone", disconnected=disconnected.wait)
        await crowd.come("next")
        # Both at once: an image whose client has disconnected is not admitted, even if it still waits.
        disconnected.set()
        await crowd.go("in 0")
        return await crowd.error_of("gone"), crowd.begun

    error, begun = crowded(main)

    assert isinstance(error, Cancelled)
    assert begun[-1] == "next"
    assert "gone" not in begun


def test_an_image_that_is_late_is_refused_with_the_limit():
    async def main(scheduler):
        async with scheduler.admit(nobody_leaves, LARGE) as ticket:
            await work_on(ticket)

    with pytest.raises(OutOfTime, match=r"more than 0\.05 seconds, the limit") as caught:
        scheduled(main, deadline=0.05)
    assert caught.value.status == 504


def test_an_image_that_waits_is_given_up_at_its_deadline():
    async def main(scheduler):
        async with AsyncExitStack() as stack:
            for _ in range(LARGE_AT_ONCE):
                await stack.enter_async_context(scheduler.admit(nobody_leaves, LARGE, low_priority=False))
            with pytest.raises(OutOfTime):
                await stack.enter_async_context(scheduler.admit(nobody_leaves, LARGE))
            return scheduler.waiting, scheduler.in_work

    assert scheduled(main, deadline=0.05) == (0, LARGE_AT_ONCE)


def test_with_a_deadline_of_0_there_is_none():
    async def main(scheduler):
        async with scheduler.admit(nobody_leaves, LARGE) as ticket:
            await ticket.in_network(window(Net()))
            return ticket.flow.stopped

    assert scheduled(main, deadline=0) is None


def test_a_cancelled_image_keeps_its_place_until_its_thread_ends():
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert go_on.wait(SOON)

    async def main(scheduler):
        async def image():
            async with scheduler.admit(nobody_leaves, LARGE) as ticket:
                await ticket.in_thread(work)

        task = asyncio.create_task(image())
        await asyncio.to_thread(begun.wait, SOON)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        held = scheduler.memory
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return held, scheduler.memory

    assert scheduled(main) == (LARGE.memory, 0)


# Errors


def test_an_error_in_a_thread_is_the_image_s_own():
    async def main(scheduler):
        def wrong():
            raise ArithmeticError("no good")

        async with scheduler.admit(nobody_leaves, LARGE) as ticket:
            await ticket.in_thread(wrong)

    with pytest.raises(ArithmeticError, match="no good"):
        scheduled(main)


def test_torch_without_memory_is_a_memory_error():
    async def main(scheduler):
        def wrong():
            return torch.empty(2**60, dtype=torch.uint8)

        with pytest.raises(MemoryError, match="can't allocate memory"):
            async with scheduler.admit(nobody_leaves, LARGE) as ticket:
                await ticket.in_thread(wrong)
        return scheduler.in_work, scheduler.memory

    assert scheduled(main) == (0, 0)


def test_another_mistake_of_torch_s_stays_what_it_is():
    async def main(scheduler):
        async with scheduler.admit(nobody_leaves, LARGE) as ticket:
            await ticket.in_thread(lambda: torch.zeros(2) @ torch.zeros(3))

    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        scheduled(main)


def test_what_an_image_took_is_free_as_soon_as_it_is_stopped():
    class Pixels:
        """Something large."""

    kept = []

    async def main(scheduler):
        async def image():
            async with scheduler.admit(leaves, LARGE) as ticket:
                pixels = Pixels()
                kept.append(weakref.ref(pixels))
                while True:
                    await ticket.in_network(window(Net(), read=lambda: (pixels, torch.zeros(32, 32, 3))[1]))

        with pytest.raises(Cancelled):
            await asyncio.create_task(image())
        await asyncio.sleep(0)

    # Not left to the collector of cycles, which comes when it likes.
    gc.disable()
    try:
        scheduled(main)
        assert kept[0]() is None
    finally:
        gc.enable()


# Times


def test_the_wait_for_the_network_is_no_time_of_work(monkeypatch):
    now, net = [0.0], Net()
    for module in (ticket, inference_queue):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    async def main(scheduler):
        async def image(side):
            async with scheduler.admit(nobody_leaves, LARGE) as ticket:
                await ticket.in_network(window(net, side))
                return ticket.seconds

        def in_ten_seconds(x):
            now[0] += 10
            return x

        net.forward = in_ten_seconds
        return await asyncio.gather(image(32), image(64))

    assert scheduled(main) == [10, 10]
