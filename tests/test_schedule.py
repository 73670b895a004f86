"""Whose turn it is: told by events, not by the clock."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from service import schedule
from service.schedule import PICTURES_AT_ONCE, Schedule

SOON = 20  # seconds; only a test that fails waits so long


async def nobody_leaves():
    await asyncio.Event().wait()


def scheduled(main):
    """Runs `main(schedule)`, a coroutine."""

    async def run():
        with ThreadPoolExecutor(1) as network:
            return await asyncio.wait_for(main(Schedule(network)), SOON)

    return asyncio.run(run())


def test_a_few_pictures_are_in_work_and_the_others_wait_in_order():
    async def main(schedule):
        begun, leave = [], asyncio.Event()

        async def picture(number):
            async with schedule.turn(nobody_leaves):
                begun.append(number)
                await leave.wait()

        pictures = [asyncio.create_task(picture(number)) for number in range(PICTURES_AT_ONCE + 2)]
        while len(begun) < PICTURES_AT_ONCE or schedule.waiting < 2:
            await asyncio.sleep(0)
        counts = (schedule.in_work, schedule.waiting, list(begun))
        leave.set()
        await asyncio.gather(*pictures)
        return counts, begun, schedule.in_work

    counts, begun, left = scheduled(main)

    assert counts == (PICTURES_AT_ONCE, 2, list(range(PICTURES_AT_ONCE)))
    assert begun == list(range(PICTURES_AT_ONCE + 2))
    assert left == 0


class Network(ThreadPoolExecutor):
    """Tells when a second piece of work has been asked for, and so stands behind the first."""

    def __init__(self):
        super().__init__(1)
        self.asked, self.second = 0, threading.Event()

    def submit(self, work):
        future = super().submit(work)
        self.asked += 1
        if self.asked == 2:
            self.second.set()
        return future


def two_pictures(network, large, small):
    """Runs both, the small one when the large one is in the network; the seconds each counted."""

    async def picture(schedule, work):
        async with schedule.turn(nobody_leaves) as turn:
            await turn.in_thread(lambda: work(turn))
            return turn.seconds

    async def both():
        schedule = Schedule(network)
        return await asyncio.gather(picture(schedule, large), picture(schedule, small))

    with network:
        return asyncio.run(both())


def test_pictures_take_turns_in_the_network_which_is_one_s_at_a_time():
    network, order, begun = Network(), [], threading.Event()

    def first():
        order.append("large begins")
        begun.set()
        assert network.second.wait(SOON)
        order.append("large ends")

    def large(turn):
        turn.in_network(first)
        turn.in_network(lambda: order.append("large goes on"))

    def small(turn):
        assert begun.wait(SOON)
        turn.in_network(lambda: order.append("small"))

    two_pictures(network, large, small)

    assert order == ["large begins", "large ends", "small", "large goes on"]


def test_the_wait_for_the_network_is_no_time_of_work(monkeypatch):
    network, begun, now = Network(), threading.Event(), [0.0]
    monkeypatch.setattr(schedule, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def for_ten_seconds():
        begun.set()
        assert network.second.wait(SOON)
        now[0] = 10.0

    def small(turn):
        assert begun.wait(SOON)
        turn.in_network(lambda: None)

    assert two_pictures(network, lambda turn: turn.in_network(for_ten_seconds), small) == [10.0, 0.0]


def test_an_error_in_the_network_is_the_picture_s_own():
    async def main(schedule):
        def wrong():
            raise ArithmeticError("no good")

        async with schedule.turn(nobody_leaves) as turn:
            await turn.in_thread(lambda: turn.in_network(wrong))

    with pytest.raises(ArithmeticError, match="no good"):
        scheduled(main)


def test_a_client_that_leaves_is_noticed():
    async def main(schedule):
        async def leaves():
            return {"type": "http.disconnect"}

        async with schedule.turn(leaves) as turn:
            while turn.wanted():
                await asyncio.sleep(0)
            return turn.wanted()

    assert scheduled(main) is False
