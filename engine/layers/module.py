"""Module: the protocol of all layers and networks, and the walk over their parameters."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple, Protocol

from torch import Tensor


class Module(Protocol):
    """A layer, a container or a network.

    `forward` writes to the module only if `train` is set, so one network serves many threads.
    """

    params: dict[str, Tensor]
    grads: dict[str, Tensor]

    @property
    def layers(self) -> "Sequence[Module]":
        """The modules inside, in order."""

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of this."""

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> y. Unless `train` is set, y may overwrite x: pass a copy if you still need x."""

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy, shaped like y -> dL/dx; sets `grads`. Needs a forward with train=True before it."""

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Most bytes that a forward pass holds at once, without weights, for each pixel of the network's input.

        scale: side of this module's input / side of the network's input; size: bytes of a number.
        """


class Convolution(Module, Protocol):
    """A convolution layer that can add, rectify and mask while it stores its result (the epilogue)."""

    in_channels: int
    x: Tensor

    @property
    def uses_kernels(self) -> bool:
        """Whether the kernels in C compute it. They need memory for the input and the output only."""

    def forward(self, x: Tensor, train: bool = False, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """x -> y + add, then the ReLU if `relu` is set. Unless `train` is set, the result may overwrite `add`."""

    def backward(self, dy: Tensor, add: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """dy -> dL/dx + add, or 0 unless mask > 0."""


class Parameter(NamedTuple):
    """One parameter: its name, like "1.0.weight", and the layer that holds it."""

    name: str
    layer: Module
    key: str

    @property
    def value(self) -> Tensor:
        return self.layer.params[self.key]

    @property
    def grad(self) -> Tensor:
        """The gradient from the last backward pass."""
        return self.layer.grads[self.key]


def parameters(module: Module, prefix: str = "") -> Iterator[Parameter]:
    """Every parameter of a module, in the order of the forward pass."""
    for key in module.params:
        yield Parameter(prefix + key, module, key)
    for index, layer in enumerate(module.layers):
        yield from parameters(layer, f"{prefix}{index}.")
