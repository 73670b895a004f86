"""Scheduler: which images are admitted, wait or are refused. Events decide each test, not the clock."""

import asyncio
import math
from types import SimpleNamespace

import pytest

from service.runtime import scheduler as scheduler_module
from service.runtime.scheduler import (
    LARGE_AT_ONCE,
    MAX_OVERTAKING,
    SMALL_AT_ONCE,
    OutOfTime,
    QueueFull,
    TooMuchMemory,
)
from service.runtime.ticket import Load, MemoryShare
from tests.service.runtime.crowd import LARGE, MEMORY, SMALL, crowded, filled, nobody_leaves, scheduled, work_on

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


def test_long_work_has_no_deadline():
    async def main(scheduler):
        async with scheduler.admit(nobody_leaves, LARGE, low_priority=True) as long:
            async with scheduler.admit(nobody_leaves, LARGE) as short:
                with pytest.raises(OutOfTime):
                    await work_on(short)
            return await long.in_thread(lambda: "done")

    assert scheduled(main, deadline=0.05) == "done"


# Refusal


def test_a_refusal_says_how_many_wait_and_when_to_try_again():
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


def test_without_places_to_wait_images_that_fit_are_admitted():
    async def main(crowd):
        for number in range(LARGE_AT_ONCE):
            await crowd.come(number)
        await crowd.come("late")
        return await crowd.error_of("late"), crowd.begun

    error, begun = crowded(main, max_waiting=0)

    assert len(begun) == LARGE_AT_ONCE
    assert "0 images are waiting; at most 0 may" in str(error)


def test_an_accepted_image_waits_however_many_do():
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
