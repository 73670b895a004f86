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
    Layer,
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


def twin(net: Layer) -> Twin:
    """The network as torch.nn has it, in float32, with a copy of our weights."""
    kernels: list[tuple[Convolution, nn.Module, Callable[[Tensor], Tensor]]] = []
    return Twin(_module(net, kernels), kernels)


def halved(net: Layer) -> nn.Module:
    """The torch.nn network with the layers inside each Cast in bfloat16; the outer sum stays float32."""
    module = twin(net).module
    for inner in module.modules():
        if isinstance(inner, Cast):
            inner.to(torch.bfloat16)
    return module


def _module(layer: Layer, kernels: list[Any]) -> nn.Module:
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


def _modules(layer: Layer, kernels: list[Any]) -> Iterator[nn.Module]:
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
