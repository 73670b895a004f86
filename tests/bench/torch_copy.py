"""A copy of a network in torch.nn, made by a walk over our layers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from engine.models.onnx_export import Convolution, kernel


class Sum(nn.Module):
    """x + inside(x)."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Cast(nn.Module):
    """Layers that compute in the type of their weights. Input and output keep their own type."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.to(next(self.parameters()).dtype)).to(x.dtype)


@dataclass(frozen=True)
class TorchCopy:
    """A torch.nn module, (N, 3, H, W) -> the same shape, and its convolutions beside ours.

    kernels: our layer, the torch module, and a function from our weight (or its gradient) to the module's.
    """

    module: nn.Module
    kernels: list[tuple[Convolution, nn.Module, Callable[[Tensor], Tensor]]] = field(default_factory=list)


def torch_copy(net: Module) -> TorchCopy:
    """The network in torch.nn, in float32, with a copy of our weights."""
    kernels: list[tuple[Convolution, nn.Module, Callable[[Tensor], Tensor]]] = []
    return TorchCopy(_module(net, kernels), kernels)


def bfloat16_copy(net: Module) -> nn.Module:
    """The network in torch.nn, in bfloat16 inside each Cast. The outer sum stays float32."""
    module = torch_copy(net).module
    for inner in module.modules():
        if isinstance(inner, Cast):
            inner.to(torch.bfloat16)
    return module


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
    raise TypeError(f"{type(layer).__name__} has no copy in torch.nn; add it to torch_copy.py")


def _modules(layer: Module, kernels: list[Any]) -> Iterator[nn.Module]:
    """The modules of the layers inside.

    torch.nn orders the channels of a pixel block differently. So the convolution that reads or writes them gets
    its channels in another order.
    """
    inside = list(layer.layers)
    for index, inner in enumerate(inside):
        if not isinstance(inner, Conv2d | ConvTranspose2d):
            yield _module(inner, kernels)
            continue
        before = inside[index - 1] if index else None
        after = inside[index + 1] if index + 1 < len(inside) else None
        reads = before.block if isinstance(before, SpaceToDepth) else 1
        writes = after.block if isinstance(after, DepthToSpace) else 1
        yield _convolution(inner, reads, writes, kernels)


def _convolution(layer: Convolution, reads: int, writes: int, kernels: list[Any]) -> nn.Module:
    geometry, bias = layer.geometry, "bias" in layer.params
    size = (layer.in_channels, layer.out_channels, geometry.kernel_size, geometry.stride, geometry.padding)
    into, out_of = _order(layer.in_channels, reads), _order(layer.out_channels, writes)
    module: nn.Module
    if isinstance(layer, Conv2d):
        module, orders = nn.Conv2d(*size, dilation=geometry.dilation, bias=bias), (out_of, into)
    else:
        more = {"output_padding": layer.output_padding, "dilation": geometry.dilation, "bias": bias}
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
    """The index among our channels of each channel of torch.nn.

    torch.nn keeps the pixels of a channel together. We keep the channels of a pixel together.
    """
    return torch.arange(channels).view(block * block, -1).T.flatten()
