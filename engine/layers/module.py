"""Module: what every layer is, and the walk over its parameters."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple, Protocol

from torch import Tensor


class Module(Protocol):
    """What every layer is. `forward` writes to the layer only when training: one network serves all threads."""

    params: dict[str, Tensor]
    grads: dict[str, Tensor]

    @property
    def layers(self) -> "Sequence[Module]":
        """The layers inside, in order."""

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of this."""

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> y. Without train, y may lie where x did: who needs x later gives a copy."""

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy, shaped like y -> dL/dx; sets `grads`. Needs a forward with train=True before it."""

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes that a forward pass holds at once for each pixel of the network's input, beside weights.

        scale: the side of the layer's input beside that of the network's; size: bytes of a number.
        """


class Convolution(Module, Protocol):
    """A layer that adds, rectifies and masks while it stores its result."""

    in_channels: int
    x: Tensor

    @property
    def by_kernels(self) -> bool:
        """Whether the kernels in C run it, which need no memory but for what goes in and comes out."""

    def forward(self, x: Tensor, train: bool = False, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """x -> y + add, rectified if asked. Without train, it may take the place of `add`."""

    def backward(self, dy: Tensor, add: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """dy -> dL/dx + add, and 0 where mask is not above 0."""


class Parameter(NamedTuple):
    """One parameter, where it lives and what it is called: "1.0.weight"."""

    name: str
    layer: Module
    key: str

    @property
    def value(self) -> Tensor:
        """The parameter itself."""
        return self.layer.params[self.key]

    @property
    def grad(self) -> Tensor:
        """Its gradient, of the last backward."""
        return self.layer.grads[self.key]


def parameters(layer: Module, prefix: str = "") -> Iterator[Parameter]:
    """Every parameter of a network, in the order of the forward pass."""
    for key in layer.params:
        yield Parameter(prefix + key, layer, key)
    for place, inner in enumerate(layer.layers):
        yield from parameters(inner, f"{prefix}{place}.")
