"""An image as its file has it, in the depth of that file; and as networks work with it: float32 on [0, 1]."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.imageio.formats import PIXELS_TAKEN, Depth, Format, UnsupportedImage
from engine.imageio.metadata import NO_METADATA, Metadata

# Rows that are worked on at a time.
STRIP = 256
# Float samples beyond it would overflow on their way through a network; counts of photons stay far below.
LARGEST_FLOAT = 1e9
# What white is.
WHITE = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}
DEPTHS: dict[torch.dtype, Depth] = {torch.uint8: "8", torch.uint16: "16", torch.float32: "float"}
# How much red, green and blue count for in brightness. Source: ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Image:
    """An image as its file has it, and what of that file has to be in the one that goes back.

    samples: uint8, uint16 or float32, (H, W, 3), or (H, W, 1) for grey. Floats are 1 where white is, and may lie
    outside [0, 1]. alpha: of the same type, (H, W), not to be changed.
    """

    samples: Tensor
    alpha: Tensor | None = None
    metadata: Metadata = NO_METADATA

    @property
    def grey(self) -> bool:
        """Whether there is one channel."""
        return self.samples.shape[2] == 1

    @property
    def depth(self) -> Depth:
        """Bits a channel, or that they are floating point."""
        return DEPTHS[self.samples.dtype]

    @property
    def pixels(self) -> Tensor:
        """float32 (H, W, 3) on [0, 1], made anew: 12 bytes a pixel, so not for what serves large images."""
        return to_pixels(self.samples)


@dataclass(frozen=True)
class File:
    """What is in an image file: its pages, or the frames of an animation.

    durations: each frame's, in milliseconds; None for what is no animation. plays: how many times, 0 for ever.
    changed: what is not as in the file it was read from, in words.
    """

    kind: Format
    pages: tuple[Image, ...]
    durations: tuple[int, ...] | None = None
    plays: int = 1
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """A file's bytes, and in words what of the image they do not hold."""

    kind: Format
    data: bytes
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outline:
    """What a file says that it holds. pixels: of all its pages; depth: of the deepest of them."""

    kind: Format
    pixels: int
    depth: Depth


@dataclass(frozen=True)
class Frame:
    """A page that is not decoded yet. load: gives it, and in words what was changed.

    bits: of a sample, 32 if they become floats. alike: how many there are from here on, where they are of one
    size and to come to the next this one would be decoded; else 1.
    """

    size: tuple[int, int]
    bits: int
    load: Callable[[], tuple[Image, tuple[str, ...]]]
    duration: Callable[[], int | None] = lambda: None
    plays: int = 1
    alike: Callable[[], int] = lambda: 1


def to_pixels(samples: Tensor) -> Tensor:
    """Samples (H, W, 1 or 3), as in an Image -> float32 (H, W, 3) on [0, 1]; grey in equal channels."""
    return samples.float().div_(WHITE[samples.dtype]).expand(-1, -1, 3).contiguous()


def to_samples(pixels: Tensor, dtype: torch.dtype, channels: int) -> Tensor:
    """float32 (H, W, 3) -> (H, W, 1 or 3) of that type; integers are clipped to [0, 1] and rounded."""
    colour = pixels.mean(2, keepdim=True) if channels == 1 else pixels
    return colour if dtype == torch.float32 else to_integers(colour, dtype)


def to_integers(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats, clipped to [0, 1] and rounded."""
    return values.clamp(0, 1).mul_(WHITE[dtype]).round_().to(dtype)


def in_mode(image: Image, colour: bool, alpha: bool) -> Image:
    """With colour, and with transparency, if it has to be and is not."""
    samples, there = image.samples, image.alpha
    if colour and image.grey:
        samples = samples.expand(-1, -1, 3).contiguous()
    if alpha and there is None:
        there = torch.full(samples.shape[:2], WHITE[samples.dtype]).to(samples.dtype)
    return replace(image, samples=samples, alpha=there)


def from_array(values: NDArray[Any], bits: int, known: Metadata, orientation: int = 1) -> Image:
    """(H, W) or (H, W, channels), alpha last, of whole numbers of so many bits or floats."""
    values = values.reshape(*values.shape[:2], -1)
    if values.shape[2] not in (1, 2, 3, 4):
        raise UnsupportedImage(f"The image has {values.shape[2]} channels; {PIXELS_TAKEN}.")
    values = _widened(_turned(values, orientation), bits)
    has_alpha = values.shape[2] in (2, 4)
    colour = np.ascontiguousarray(values[..., :-1] if has_alpha else values)
    alpha = np.ascontiguousarray(values[..., -1]) if has_alpha else None
    _refuse_unreal(colour)
    image = Image(torch.from_numpy(colour), None if alpha is None else torch.from_numpy(alpha))
    return replace(image, metadata=known.upright())


def _turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Upright, where a file's EXIF says that it is not."""
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    across, down = {1: (1, 1), 2: (-1, 1), 3: (-1, -1), 4: (1, -1)}[orientation]
    return values[::down, ::across]


def _widened(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """To 8 or 16 bits, or float32, a strip at a time."""
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    if bits in (8, 16):
        return values.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    white, dtype = (255, np.uint8) if bits < 8 else (65535, np.uint16)
    wide = np.empty(values.shape, dtype)
    for top in range(0, len(values), STRIP):
        strip = values[top : top + STRIP].astype(np.uint32)
        wide[top : top + STRIP] = (strip * white + 2 ** (bits - 1)) // (2**bits - 1)
    return wide


def _refuse_unreal(values: NDArray[Any]) -> None:
    if values.dtype.kind != "f":
        return
    for top in range(0, len(values), STRIP):
        strip = np.abs(values[top : top + STRIP])
        # Not a number is not below anything.
        if not (strip <= LARGEST_FLOAT).all():
            raise UnsupportedImage(
                f"The image has samples that are infinite, not a number or beyond {LARGEST_FLOAT:g}; taken are "
                "finite ones, of which 1 is white."
            )
