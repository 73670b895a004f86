"""Scheduler: images that stop early, errors, and times."""

import asyncio
import gc
import threading
import weakref
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
import torch

from service.runtime import inference_queue, ticket
from service.runtime.scheduler import LARGE_AT_ONCE, Cancelled, OutOfTime
from tests.service.runtime.crowd import LARGE, crowded, filled, leaves, nobody_leaves, scheduled, work_on
from tests.support.windows import SOON, Net, window

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
