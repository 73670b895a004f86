"""The same network by other software: a walk over our layers that gives torch.nn modules, or ONNX bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from engine.layers import (
    CastTo,
    Conv2d,
    ConvTranspose2d,
    DepthToSpace,
    Module,
    PixelResidual,
    ReLU,
    ResBlock,
    Sequential,
    Sigmoid,
    Skip,
    SpaceToDepth,
)

from .rows import LeftOut

Convolution = Conv2d | ConvTranspose2d


class Sum(nn.Module):
    """x plus what the layers make of it."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Cast(nn.Module):
    """Layers in the type of their own weights; what goes in and what comes out keep theirs."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.to(next(self.parameters()).dtype)).to(x.dtype)


@dataclass(frozen=True)
class Twin:
    """A torch.nn module, (N, 3, H, W) -> the same, and each convolution of ours with its own.

    kernels: layer, module, and what makes the module's weight (or its gradient) out of the layer's.
    """

    module: nn.Module
    kernels: list[tuple[Convolution, nn.Module, Callable[[Tensor], Tensor]]] = field(default_factory=list)


def twin(net: Module) -> Twin:
    """The network as torch.nn has it, in float32, with a copy of our weights."""
    kernels: list[tuple[Convolution, nn.Module, Callable[[Tensor], Tensor]]] = []
    return Twin(_module(net, kernels), kernels)


def halved(net: Module) -> nn.Module:
    """The torch.nn network with the layers inside each Cast in bfloat16; the outer sum stays float32."""
    module = twin(net).module
    for inner in module.modules():
        if isinstance(inner, Cast):
            inner.to(torch.bfloat16)
    return module


def kernel(layer: Convolution, weight: Tensor) -> Tensor:
    """A weight of ours in the order of torch.nn and ONNX: (C_out, C_in, k, k), transposed (C_in, C_out, k, k)."""
    k = layer.geometry.kernel_size
    if isinstance(layer, Conv2d):
        return weight.reshape(k, k, layer.in_channels, layer.out_channels).permute(3, 2, 0, 1)
    return weight.reshape(layer.in_channels, k, k, layer.out_channels).permute(0, 3, 1, 2)


def _module(layer: Module, kernels: list[Any]) -> nn.Module:
    match layer:
        case PixelResidual():
            return Sum(Cast(nn.Sequential(*_modules(layer.layers[0], kernels))))
        case ResBlock() | Skip():
            return Sum(nn.Sequential(*_modules(layer, kernels)))
        case CastTo():
            return Cast(nn.Sequential(*_modules(layer, kernels)))
        case Sequential():
            return nn.Sequential(*_modules(layer, kernels))
        case ReLU():
            return nn.ReLU(inplace=True)
        case Sigmoid():
            return nn.Sigmoid()
        case SpaceToDepth():
            return nn.PixelUnshuffle(layer.block)
        case DepthToSpace():
            return nn.PixelShuffle(layer.block)
    raise TypeError(f"torch.nn's twin of {type(layer).__name__} is not known here")


def _modules(layer: Module, kernels: list[Any]) -> Iterator[nn.Module]:
    """The modules of the layers inside. Pixels of a block lie in another order after torch.nn's rearrangement,
    so the convolution that reads them, or writes them, has its channels sorted.
    """
    inside = list(layer.layers)
    for place, inner in enumerate(inside):
        if not isinstance(inner, Conv2d | ConvTranspose2d):
            yield _module(inner, kernels)
            continue
        before = inside[place - 1] if place else None
        after = inside[place + 1] if place + 1 < len(inside) else None
        reads = before.block if isinstance(before, SpaceToDepth) else 1
        writes = after.block if isinstance(after, DepthToSpace) else 1
        yield _convolution(inner, reads, writes, kernels)


def _convolution(layer: Convolution, reads: int, writes: int, kernels: list[Any]) -> nn.Module:
    window, bias = layer.geometry, "bias" in layer.params
    size = (layer.in_channels, layer.out_channels, window.kernel_size, window.stride, window.padding)
    into, out_of = _order(layer.in_channels, reads), _order(layer.out_channels, writes)
    module: nn.Module
    if isinstance(layer, Conv2d):
        module, orders = nn.Conv2d(*size, dilation=window.dilation, bias=bias), (out_of, into)
    else:
        more = {"output_padding": layer.output_padding, "dilation": window.dilation, "bias": bias}
        module, orders = nn.ConvTranspose2d(*size, **more), (into, out_of)

    def change(weight: Tensor) -> Tensor:
        return kernel(layer, weight)[orders[0]][:, orders[1]]

    module.to(layer.params["weight"].device)
    with torch.no_grad():
        module.weight.copy_(change(layer.params["weight"]))
        if bias:
            module.bias.copy_(layer.params["bias"][out_of])
    kernels.append((layer, module, change))
    return module


def _order(channels: int, block: int) -> Tensor:
    """Where torch.nn's channels lie among ours: it has a channel's pixels together, we a pixel's channels."""
    return torch.arange(channels).view(block * block, -1).T.flatten()


def onnx_bytes(net: Module, height: int, width: int) -> bytes:
    """The network as an ONNX file, float32 (1, height, width, 3) -> the same. Raises LeftOut without onnx."""
    try:
        from onnx import TensorProto, checker, helper
    except ImportError as error:
        raise LeftOut("onnx is not installed") from error
    graph = _Graph()
    inside = graph.add("Transpose", "input", perm=[0, 3, 1, 2])
    graph.nodes.append(helper.make_node("Transpose", [_onnx(net, inside, graph)], ["output"], perm=[0, 2, 3, 1]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, height, width, 3])
        for name in ("input", "output")
    ]
    made = helper.make_graph(graph.nodes, "net", ends[:1], ends[1:], graph.weights)
    # Versions that every runtime of the last years reads.
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


class _Graph:
    """Nodes and weights as they come, each result with a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.names = (f"t{number}" for number in count())

    def add(self, kind: str, *given: str, **attributes: Any) -> str:
        """A node; returns its result's name."""
        from onnx import helper

        name = next(self.names)
        self.nodes.append(helper.make_node(kind, list(given), [name], **attributes))
        return name

    def weight(self, value: Tensor) -> str:
        """A constant; returns its name."""
        from onnx import numpy_helper

        name = next(self.names)
        self.weights.append(numpy_helper.from_array(value.contiguous().numpy(), name))
        return name


def _onnx(layer: Module, x: str, graph: _Graph) -> str:
    """Add the layer's nodes, reading x; returns its result's name."""
    match layer:
        case Conv2d() | ConvTranspose2d():
            return _onnx_convolution(layer, x, graph)
        case ReLU():
            return graph.add("Relu", x)
        case Sigmoid():
            return graph.add("Sigmoid", x)
        case SpaceToDepth():
            return graph.add("SpaceToDepth", x, blocksize=layer.block)
        case DepthToSpace():
            return graph.add("DepthToSpace", x, blocksize=layer.block, mode="DCR")
        case Sequential():
            y = x
            for inner in layer.layers:
                y = _onnx(inner, y, graph)
            return graph.add("Add", x, y) if isinstance(layer, PixelResidual | ResBlock | Skip) else y
    raise TypeError(f"ONNX's twin of {type(layer).__name__} is not known here")


def _onnx_convolution(layer: Convolution, x: str, graph: _Graph) -> str:
    window = layer.geometry
    given = [x, graph.weight(kernel(layer, layer.params["weight"]))]
    if "bias" in layer.params:
        given.append(graph.weight(layer.params["bias"]))
    attributes: dict[str, Any] = {
        "kernel_shape": [window.kernel_size] * 2,
        "strides": [window.stride] * 2,
        "pads": [window.padding] * 4,
        "dilations": [window.dilation] * 2,
    }
    if isinstance(layer, Conv2d):
        return graph.add("Conv", *given, **attributes)
    return graph.add("ConvTranspose", *given, output_padding=[layer.output_padding] * 2, **attributes)
