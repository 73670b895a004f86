"""Whose turn it is: told by events, not by the clock."""

import asyncio
from types import SimpleNamespace

import pytest
from windows import SOON, Net, piece

from service import network, schedule
from service.schedule import PICTURES_AT_ONCE, Cancelled, Schedule


async def nobody_leaves():
    await asyncio.Event().wait()


def scheduled(main):
    """Runs `main(schedule)`, a coroutine."""

    async def run():
        with network.Network() as thread:
            return await asyncio.wait_for(main(Schedule(thread)), SOON)

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


def test_an_error_in_a_thread_is_the_picture_s_own():
    async def main(schedule):
        def wrong():
            raise ArithmeticError("no good")

        async with schedule.turn(nobody_leaves) as turn:
            await turn.in_thread(wrong)

    with pytest.raises(ArithmeticError, match="no good"):
        scheduled(main)


def test_the_wait_for_the_network_is_no_time_of_work(monkeypatch):
    now, net = [0.0], Net()
    monkeypatch.setattr(schedule, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(network, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    async def main(schedule):
        async def picture(side):
            async with schedule.turn(nobody_leaves) as turn:
                await turn.in_network(piece(net, side))
                return turn.seconds

        def in_ten_seconds(x):
            now[0] += 10
            return x

        net.forward = in_ten_seconds
        return await asyncio.gather(picture(32), picture(64))

    assert scheduled(main) == [10, 10]


def test_a_client_that_leaves_stops_its_picture_before_the_next_window():
    async def main(schedule):
        async def leaves():
            return {"type": "http.disconnect"}

        async def work(turn):
            while True:
                await turn.in_network(piece(Net()))

        async with schedule.turn(leaves) as turn:
            with pytest.raises(Cancelled):
                await work(turn)
            with pytest.raises(Cancelled):
                await turn.in_thread(lambda: None)

    scheduled(main)
