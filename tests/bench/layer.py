"""Group `layer`: compares each convolution of the networks with torch's own and with the plain path.

The geometries are those of the networks for an image of 512 x 512. GFLOP/s count 2 · multiply-adds of the direct
convolution, whatever is computed. So a fast algorithm can exceed the processor's product rate. That is measured
in the same rounds with one large `mm` of the same type.
"""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from engine.layers import Conv2d, ConvTranspose2d, Module
from engine.layers.plain import Epilogue
from engine.models.networks import NetworkConfig
from engine.models.onnx_export import Convolution, kernel

from .peers import LAYOUTS
from .plain import plainly
from .rows import PRECISIONS, Options, Row, check_equal, compared
from .subjects import NETWORKS, network
from .timing import fastest, interleaved

# Side of the square image, in pixels.
SIDE = 512
# Side of the matrices in the large product.
LARGE = 1536
# Ours and the plain path round terms that torch's bfloat16 kernels can keep in float32. A folded pixel sums nine.
SLACK = 2.0


class ConvCase(NamedTuple):
    """A convolution to measure. side: of its square input, in pixels."""

    kind: str
    kernel_size: int
    stride: int
    padding: int
    dilation: int
    output_padding: int
    in_channels: int
    out_channels: int
    bias: bool
    side: int

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.kernel_size}/{self.stride}/{self.padding}"
            f" {self.in_channels} to {self.out_channels} at {self.side}²"
        )


def conv_cases(net: Module, side: int) -> Iterator[tuple[ConvCase, Convolution]]:
    """Every convolution of a network, for a square image."""
    yield from ((case, layer) for case, layer, _ in _walk(net, Fraction(side)))


def _walk(layer: Module, side: Fraction) -> Iterator[tuple[ConvCase, Convolution, Fraction]]:
    if isinstance(layer, Conv2d | ConvTranspose2d):
        conv, transposed = layer.geometry, isinstance(layer, ConvTranspose2d)
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        more = layer.output_padding if isinstance(layer, ConvTranspose2d) else 0
        channels = (layer.in_channels, layer.out_channels, "bias" in layer.params)
        kind = "transposed" if transposed else "conv"
        yield ConvCase(kind, *geometry, more, *channels, int(side)), layer, side
    for inner in layer.layers:
        yield from _walk(inner, side)
        side *= inner.factor


def rows(options: Options, networks: Mapping[str, NetworkConfig] = NETWORKS, side: int = SIDE) -> Iterator[Row]:
    """side: of the square image, in pixels."""
    users: dict[ConvCase, list[str]] = {}
    layers: dict[ConvCase, Convolution] = {}
    for name, spec in networks.items():
        for conv_case, layer in conv_cases(network(spec), side):
            layers.setdefault(conv_case, layer)
            if name not in users.setdefault(conv_case, []):
                users[conv_case].append(name)
    for conv_case, layer in layers.items():
        case = f"{conv_case} ({' '.join(users[conv_case])})"
        for precision in options.precisions:
            if options.wants(case):
                yield from _rows(case, conv_case, layer, precision, options)


def _rows(case: str, conv_case: ConvCase, layer: Convolution, precision: str, options: Options) -> Iterator[Row]:
    dtype = PRECISIONS[precision]
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, conv_case.side, conv_case.side, conv_case.in_channels, generator=rng).to(dtype)
    dy = torch.randn(layer.forward(x).shape, generator=rng).to(dtype)
    pixels = (dy if conv_case.kind == "conv" else x).shape[1:3].numel()
    gflop = 2 * conv_case.kernel_size**2 * conv_case.in_channels * conv_case.out_channels * pixels / 1e9
    product = _product(dtype)

    theirs = {way: _Functional(layer, x, dy, layout) for way, layout in LAYOUTS.items()}
    input_gradient, weight_gradient = _gradients(layer, x, dy)
    passes: dict[str, dict[str, Callable[[], Tensor]]] = {
        "forward": {
            "ours": lambda: layer.forward(x),
            "plain": plainly(lambda: layer.forward(x)),
            **{way: function.forward for way, function in theirs.items()},
        },
        "dL/dx": {
            "ours": input_gradient,
            "plain": plainly(input_gradient),
            **{way: function.input_gradient for way, function in theirs.items()},
        },
        "dL/dW": {
            "ours": weight_gradient,
            "plain": plainly(weight_gradient),
            **{way: function.weight_gradient for way, function in theirs.items()},
        },
    }
    for direction, works in passes.items():
        name = f"{direction}, {case}"
        expected = works["ours"]().clone()
        for side in ("plain", *theirs):
            found = works[side]()
            found = theirs[side].back(expected, found) if side in theirs else found
            check_equal(f"{name}, {side}", expected, found, precision, SLACK)
        best = fastest({way: works[way] for way in theirs})
        timed = {side: works[side] for side in ("ours", "plain", best)}
        seconds = interleaved({**timed, "product": product}, options.rounds)
        share = gflop / median(seconds["ours"]) / (2 * LARGE**3 / 1e9 / median(seconds["product"]))
        for peer, title in ((best, f"torch {best}"), ("plain", "plain path")):
            yield compared(
                "layer",
                name,
                precision,
                gflop,
                "GFLOP/s",
                seconds["ours"],
                seconds[peer],
                title,
                share_of_product=share,
            )


def _gradients(layer: Convolution, x: Tensor, dy: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Functions for dL/dx and dL/dW."""
    weight, size, none = layer.params["weight"], (x.shape[1], x.shape[2]), Epilogue()
    # The product alone. The group `step` includes the packing of weights.
    if isinstance(layer, Conv2d):
        return lambda: layer._adjoint(dy, weight, size, none, True), lambda: layer._gradient(x, dy, False)
    # A transposed convolution is the adjoint of a convolution from its output channels to its input channels.
    return lambda: layer._product(dy, weight.T, size, none, True), lambda: layer._gradient(dy, x, True)


def _product(dtype: torch.dtype) -> Callable[[], Tensor]:
    a, b = torch.randn(LARGE, LARGE).to(dtype), torch.randn(LARGE, LARGE).to(dtype)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


class _Functional:
    """The layer by torch's own functions, in one layout. Its results are (N, C, H, W)."""

    def __init__(self, layer: Convolution, x: Tensor, dy: Tensor, layout: torch.memory_format) -> None:
        self.layer = layer
        self.x, self.dy = (t.permute(0, 3, 1, 2).contiguous(memory_format=layout) for t in (x, dy))
        self.weight = kernel(layer, layer.params["weight"]).to(x.dtype).contiguous(memory_format=layout)
        self.bias = layer.params["bias"].to(x.dtype) if "bias" in layer.params else None

    def forward(self) -> Tensor:
        """y."""
        geometry, given = self.layer.geometry, (self.x, self.weight, self.bias)
        if isinstance(self.layer, Conv2d):
            return functional.conv2d(*given, geometry.stride, geometry.padding, geometry.dilation)
        more = {"output_padding": self.layer.output_padding, "dilation": geometry.dilation}
        return functional.conv_transpose2d(*given, geometry.stride, geometry.padding, **more)

    def input_gradient(self) -> Tensor:
        """dL/dx."""
        return self._backward([True, False, False])[0]

    def weight_gradient(self) -> Tensor:
        """dL/dW."""
        return self._backward([False, True, False])[1]

    def _backward(self, which: list[bool]) -> tuple[Tensor, ...]:
        geometry, transposed = self.layer.geometry, isinstance(self.layer, ConvTranspose2d)
        more = self.layer.output_padding if isinstance(self.layer, ConvTranspose2d) else 0
        sides = ([value] * 2 for value in (geometry.stride, geometry.padding, geometry.dilation))
        given = (self.dy, self.x, self.weight, None)
        return torch.ops.aten.convolution_backward(*given, *sides, transposed, [more] * 2, 1, which)

    def back(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """Reorders a result of torch, pixels or a weight, to the order of ours."""
        if mine.dim() == 4:
            return theirs.permute(0, 2, 3, 1)
        order = (2, 3, 1, 0) if isinstance(self.layer, Conv2d) else (0, 2, 3, 1)
        return theirs.permute(order).reshape(mine.shape)
