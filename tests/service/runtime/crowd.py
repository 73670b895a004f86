"""Crowd: images that come to a scheduler one after another, and leave when a test names them."""

import asyncio

import pytest

from service.problems import ProblemError
from service.runtime.scheduler import LARGE_AT_ONCE, Scheduler
from service.runtime.ticket import Load
from service.settings import Settings
from tests.support.windows import SOON, Net, window

MEMORY = 2**24
SMALL = Load(100, MEMORY // 64)
LARGE = Load(1000, MEMORY // 8)


async def nobody_leaves():
    await asyncio.Event().wait()


async def leaves():
    """The client has disconnected already."""


def scheduled(main, **settings):
    """Runs `main(scheduler)`, a coroutine."""

    async def run():
        with Scheduler(Settings(image_memory=MEMORY, **settings)) as scheduler:
            return await asyncio.wait_for(main(scheduler), SOON)

    return asyncio.run(run())


class Crowd:
    """Images that come one after another. Each stays in work until `go` names it."""

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
        with pytest.raises(ProblemError) as caught:
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


def filled(crowd, load=LARGE, count=LARGE_AT_ONCE):
    return asyncio.gather(*(crowd.come(f"in {number}", load, accepted=True) for number in range(count)))


async def work_on(ticket):
    while True:
        await ticket.in_network(window(Net()))
