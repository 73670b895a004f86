"""Inference queue: which window is next, and which share a batch. Events decide each test, not the clock."""

import gc
import os
import subprocess
import sys
import weakref
from itertools import repeat
from pathlib import Path

import pytest
import torch

from engine.imageio.image import Image
from engine.inference.denoise import TiledDenoiser, denoise
from engine.layers import parameters
from engine.models.networks import AutoencoderConfig, UNetConfig, build_network
from engine.system.runtime import NICE_INCREMENT
from service.runtime.inference_queue import Flow, InferenceQueue
from tests.support.windows import SOON, Net, window

ROOT = Path(__file__).parents[3]


@pytest.fixture
def network():
    with InferenceQueue(1) as network:
        yield network


class Held:
    """The network at work on a window, so that what is asked for meanwhile waits; once let go, runs all of it."""

    def __init__(self, network):
        self.network, self.net = network, Net()
        self.net.go_on.clear()
        self.done = [network.ask(Flow(), window(self.net, side=1))]
        assert self.net.begun.wait(SOON)

    def ask(self, flow, window):
        self.done.append(self.network.ask(flow, window))
        return self.done[-1]

    def let_go(self):
        self.net.go_on.set()
        for done in self.done:
            done.exception(SOON)


def ask_in_a_row(held, flows, windows):
    """Each as soon as the one before is done. flows: one for each; an image's windows have the same."""
    left = zip(flows, windows, strict=False)

    def ask_next(done=None):
        for flow, waiting in left:
            held.ask(flow, waiting).add_done_callback(ask_next)
            return

    ask_next()


def named(order, name, side, count=1):
    """Windows that write down when they are read."""

    def read():
        order.append(name)
        return torch.zeros(side, side, 3)

    return [window(Net(), side, read=read) for _ in range(count)]


def test_a_small_image_passes_waiting_windows_of_large_ones(network):
    held, order = Held(network), []

    for name in ("large", "larger", "largest"):
        held.ask(Flow(), *named(order, name, 64))
    held.ask(Flow(), *named(order, "small", 32))
    held.let_go()

    assert order == ["small", "large", "larger", "largest"]


def test_small_images_do_not_starve_a_large_one(network):
    held, order = Held(network), []

    held.ask(Flow(), *named(order, "large", 64))
    for _ in range(20):
        ask_in_a_row(held, [Flow() for _ in range(10)], named(order, "small", 32, 10))
    held.let_go()
    while len(order) < 201:
        held.let_go()

    # Four small ones are as much work as the large one, and 20 clients send them, one after the other.
    assert 0 < order.index("large") <= 5 * 20


def test_requests_take_turns_by_pixels_and_not_by_windows(network):
    held, order = Held(network), []

    ask_in_a_row(held, repeat(Flow()), named(order, "wide", 64, 3))
    ask_in_a_row(held, repeat(Flow()), named(order, "narrow", 32, 12))
    held.let_go()
    while len(order) < 15:
        held.let_go()

    shared = order[: len(order) - order[::-1].index("wide")]
    assert 6 <= shared.count("narrow") <= 12


def test_a_flow_of_less_share_waits_for_others_but_not_for_ever(network):
    held, order = Held(network), []

    ask_in_a_row(held, repeat(Flow(share=1 / 8)), named(order, "low share", 32, 2))
    ask_in_a_row(held, repeat(Flow()), named(order, "full share", 32, 30))
    held.let_go()
    while len(order) < 32:
        held.let_go()

    assert order[:4] == ["full share"] * 4
    assert order.index("low share") < 20


def test_windows_of_one_network_and_shape_share_a_batch(network):
    held, net, got = Held(network), Net(), []

    for _ in range(3):
        held.ask(Flow(), window(net, 32, to=got))
    held.ask(Flow(), window(net, 64, to=got))
    held.ask(Flow(), window(Net(), 32, to=got))
    held.let_go()

    assert sorted(net.batches) == [1, 3]
    assert len(got) == 5


def test_a_batch_is_no_larger_than_the_memory_budget_holds(network):
    held, net = Held(network), Net()

    for _ in range(5):
        held.ask(Flow(), window(net, fits=2))
    held.let_go()

    assert net.batches == [2, 2, 1]


def test_no_window_waits_for_a_batch_to_fill(network):
    net = Net()

    assert network.ask(Flow(), window(net)).result(SOON) >= 0
    assert net.batches == [1]


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", [UNetConfig((48, 64), (1, 1, 1)), AutoencoderConfig(16)], ids=["photo", "paper"])
def test_in_a_batch_each_image_is_what_it_is_alone(network, spec, compute):
    rng, net, held = torch.Generator().manual_seed(0), build_network(spec, compute=compute), Held(network)
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng) * 0.1
    images = [
        Image(torch.randint(256, size, generator=rng).to(torch.uint8))
        for size in [(60, 50, 3), (64, 64, 3), (33, 64, 1), (64, 40, 3)]
    ]
    alone = [denoise(net, each) for each in images]

    together = [TiledDenoiser(net, each) for each in images]
    for each in together:
        held.ask(Flow(), each.windows[0])
    held.let_go()

    for each, expected in zip(together, alone, strict=True):
        assert (each.result().samples.int() - expected.samples.int()).abs().max() <= 1


def test_what_is_stopped_while_it_waits_is_dropped_and_says_why(network):
    held, net, flow = Held(network), Net(), Flow()

    dropped = held.ask(flow, window(net))
    held.ask(Flow(), window(net))
    flow.stopped = lambda: TimeoutError("too late")
    held.let_go()

    with pytest.raises(TimeoutError, match="too late"):
        dropped.result(SOON)
    assert net.batches == [1]


def test_what_is_cancelled_while_it_waits_is_dropped(network):
    held, net = Held(network), Net()

    dropped = held.ask(Flow(), window(net))
    assert dropped.cancel()
    other = network.ask(Flow(), window(net))
    held.net.go_on.set()

    other.result(SOON)
    assert net.batches == [1]


def test_an_error_fails_only_its_own_window_of_a_batch(network):
    held, net, got = Held(network), Net(), []

    def broken():
        raise MemoryError("no more")

    fine = [held.ask(Flow(), window(net, to=got)) for _ in range(2)]
    wrong = held.ask(Flow(), window(net, read=broken))
    held.let_go()

    assert [done.exception(SOON) for done in fine] == [None, None]
    assert len(got) == 2
    with pytest.raises(MemoryError, match="no more"):
        wrong.result(SOON)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for each thread's priority")
def test_threads_that_compute_have_low_priority():
    program = """
import asyncio, os, torch
from engine.inference.tiling import Window
from service.runtime.scheduler import Scheduler
from service.settings import Settings
from service.runtime.ticket import Load
torch.set_num_threads(3)

class Net:
    def forward(self, x):
        return (x @ x).sort().values

def nice():
    return {int(task): os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir("/proc/self/task")}

async def nobody_leaves():
    await asyncio.Event().wait()

async def main():
    before = nice()
    with Scheduler(Settings()) as scheduler:
        async with scheduler.admit(nobody_leaves, Load(1, 1)) as ticket:
            here = nice()
            heavy = Window(Net(), (900, 900), 1, 1, lambda: torch.rand(900, 900), lambda y, x: None)
            await ticket.in_network(heavy)
            computing = nice()
            alone = await ticket.in_thread(lambda: torch.rand(900, 900).sort() and torch.get_num_threads())
            after = nice()
    print({here[task] - before[task] for task in before}, {after[task] for task in after.keys() - here})
    print(len(computing) - len(here) >= 3, len(after) - len(computing), alone, torch.get_num_threads())

asyncio.run(main())
"""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    # The network's thread and its two helpers; one thread to decode, without any.
    assert output.stdout.splitlines() == [f"{{0}} {{{min(19, own + NICE_INCREMENT)}}}", "True 1 1 3"], (
        output.stderr
    )


@pytest.mark.parametrize("stopped", [None, TimeoutError])
def test_neither_a_stop_nor_an_error_keeps_the_image_in_memory(stopped):
    def broken():
        raise ArithmeticError("no good")

    asked = window(Net(), read=broken)
    with InferenceQueue(1) as network:
        done, kept = network.ask(Flow(stopped=stopped), asked), weakref.ref(asked)
    assert isinstance(done.exception(), stopped or ArithmeticError)

    # Not left to the collector of cycles, which comes when it likes.
    gc.disable()
    try:
        del asked, done
        assert kept() is None
    finally:
        gc.enable()
