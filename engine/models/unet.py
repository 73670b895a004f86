"""The bias-free residual U-Net, kind "photo": its configuration and its layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from engine.layers import Conv2d, ConvTranspose2d, Module, PixelResidual, ResBlock, Skip

# Of the image: red, green and blue.
CHANNELS = 3
# Standard deviation of the weights that each kind of layer starts with, for a fan-in of 1.
INPUT_GAIN = 1.0
RESAMPLING_GAIN = 1.0
# He et al. 2015: this keeps the variance through the ReLU that follows.
FIRST_GAIN = 2**0.5
# A block adds its output to its input. With He's value here too, the signal grows from block to block; with 0 the
# training diverges later. A small value trains well.
SECOND_GAIN = 0.3
# Zeros: before training, the network returns its input.
OUTPUT_GAIN = 0.0
L = TypeVar("L", Conv2d, ConvTranspose2d)


@dataclass(frozen=True)
class UNetConfig:
    """Widths and depths of a U-Net. The defaults are size S.

    channels: one width for each level, at 1/2, 1/4, ... of the image's size.
    blocks: number of residual blocks at each level on the way down, at the lowest level, and on the way up.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 1, 3, 1, 1)

    def __post_init__(self) -> None:
        _check_counts("channels", self.channels, least=1)
        _check_counts("blocks", self.blocks, least=0)
        levels = len(self.channels)
        if not levels or len(self.blocks) != 2 * levels - 1:
            raise ValueError(
                f"{levels} levels of channels take {2 * levels - 1} numbers of blocks; got {len(self.blocks)}"
            )


def build_unet(config: UNetConfig, rng: torch.Generator | None, compute: torch.dtype) -> Module:
    """compute: the type that products run in."""
    width = config.channels[0]
    head = _conv3(4 * CHANNELS, width, INPUT_GAIN, rng)
    tail = _conv3(width, 4 * CHANNELS, OUTPUT_GAIN, rng)
    body = _level(config.channels, config.blocks, rng)
    return PixelResidual(CHANNELS, 2, compute, head, *body, tail)


def _level(channels: tuple[int, ...], blocks: tuple[int, ...], rng: torch.Generator | None) -> Iterator[Module]:
    """Blocks, then the lower levels with a skip connection around them, then blocks."""
    width, *lower = channels
    for _ in range(blocks[0]):
        yield _block(width, rng)
    if not lower:
        return
    down = Conv2d(width, lower[0], 2, 2, bias=False, rng=rng)
    yield Skip(
        _scaled(down, RESAMPLING_GAIN, rng),
        list(_level(tuple(lower), blocks[1:-1], rng)),
        _scaled(ConvTranspose2d(lower[0], width, 2, 2, bias=False, rng=rng), RESAMPLING_GAIN, rng),
    )
    for _ in range(blocks[-1]):
        yield _block(width, rng)


def _block(width: int, rng: torch.Generator | None) -> Module:
    first = _conv3(width, width, FIRST_GAIN, rng)
    second = _conv3(width, width, SECOND_GAIN, rng)
    return ResBlock(first, second)


def _conv3(in_channels: int, out_channels: int, gain: float, rng: torch.Generator | None) -> Conv2d:
    return _scaled(Conv2d(in_channels, out_channels, 3, padding=1, bias=False, rng=rng), gain, rng)


def _scaled(layer: L, gain: float, rng: torch.Generator | None) -> L:
    """The layer with its weights drawn again: standard deviation gain · sqrt(1 / fan_in)."""
    weight: Tensor = layer.params["weight"]
    layer.params["weight"] = torch.randn(weight.shape, generator=rng) * (gain / layer.fan_in**0.5)
    return layer


def _check_counts(name: str, values: tuple[int, ...], least: int) -> None:
    for value in values:
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be whole numbers of at least {least}; got {value!r}")
