"""Windows for the network that a test can hold, count and tell apart."""

import threading

import torch

from engine.inference.tiling import Window

SOON = 20  # seconds; only a test that fails waits so long


class Net:
    """A network that returns its input, notes the size of each batch, and can be held."""

    def __init__(self):
        self.batches, self.begun, self.go_on = [], threading.Event(), threading.Event()
        self.go_on.set()

    def forward(self, x):
        self.batches.append(len(x))
        self.begun.set()
        assert self.go_on.wait(SOON)
        return x


def window(net, side=32, fits=100, to=None, read=None):
    """A window that appends its result to the list `to`."""
    to = [] if to is None else to
    read = read or (lambda: torch.zeros(side, side, 3))
    return Window(net, (side, side), side**2, fits, read, lambda result, given: to.append(result))
