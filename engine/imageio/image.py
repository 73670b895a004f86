"""Image: samples in the depth of their file. Conversion to and from pixels, float32 on [0, 1]."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.imageio.formats import SUPPORTED_PIXELS, Depth, Format, UnsupportedImage
from engine.imageio.metadata import NO_METADATA, Metadata
from engine.imageio.samples import STORED_TYPES, Missing, take_missing, to_stored

# Rows that are converted at a time.
STRIP = 256
# Larger float samples would overflow in a network. Photon counts stay far below.
MAX_FLOAT = 1e9
# Integers of 32 bits reach farther. They are normalised before the network.
_MAX_INTEGER = 2.0**32
# The sample that is white.
WHITE = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}
DEPTHS: dict[torch.dtype, Depth] = {torch.uint8: "8", torch.uint16: "16", torch.float32: "float"}
# Weights of red, green and blue in brightness. Source: ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Image:
    """An image in the depth of its file, and the metadata that the output file keeps.

    samples: uint8, uint16 or float32, (H, W, 3), or (H, W, 1) for grey. For floats 1 is white, and values outside
        [0, 1] are allowed.
    alpha: same type, (H, W); denoising does not change it.
    missing: the samples that the file lacks. `samples` has values from their neighbours there.
    stored: the file's type, one of STORED_TYPES, if `samples` cannot have it; they are floats in its units.
        Otherwise "".
    """

    samples: Tensor
    alpha: Tensor | None = None
    metadata: Metadata = NO_METADATA
    missing: Missing | None = None
    stored: str = ""

    @property
    def grey(self) -> bool:
        """Whether there is one channel."""
        return self.samples.shape[2] == 1

    @property
    def depth(self) -> Depth:
        """Bits per channel, or "float"."""
        return DEPTHS[self.samples.dtype]

    @property
    def in_counts(self) -> bool:
        """Whether the file's samples are whole numbers."""
        return self.samples.dtype != torch.float32 or np.dtype(self.stored or "float32").kind in "iu"

    @property
    def pixels(self) -> Tensor:
        """float32 (H, W, 3) on [0, 1], 12 bytes per pixel: too much memory for large images in a service."""
        return to_pixels(self.samples)


@dataclass(frozen=True)
class ImageSequence:
    """The pages of an image file, or the frames of an animation. A sequence of one is a still image.

    durations: of each frame, in milliseconds; None if it is not an animation.
    plays: number of times the animation plays, 0 for endless.
    changed: differences from the file that was read, in words.
    """

    kind: Format
    pages: tuple[Image, ...]
    durations: tuple[int, ...] | None = None
    plays: int = 1
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodedImage:
    """An image file's bytes. changed: differences from the file that was read, in words."""

    kind: Format
    data: bytes
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageInfo:
    """An image file's headers. pixels: of all pages together. depth: the largest of any page.

    pages: how many the file has, if they were counted; otherwise how many were read.
    """

    kind: Format
    pixels: int
    depth: Depth
    pages: int = 1


@dataclass(frozen=True)
class LazyFrame:
    """A page or frame that is not decoded yet.

    size: (width, height).
    bits: per sample; 32 if samples become floats.
    load: decodes it; returns the image and its changes, in words.
    duration: in milliseconds; None if it is not animated.
    plays: number of times the animation plays, 0 for endless.
    remaining: number of frames from this one on, where all have one size and the next cannot be reached without
        decoding this one; 1 elsewhere.
    place: the position, focal plane and channel, in words, as far as they differ in the file; None if the file
        does not tell them. Pages of the same place show the same at different times.
    """

    size: tuple[int, int]
    bits: int
    load: Callable[[], tuple[Image, tuple[str, ...]]]
    duration: Callable[[], int | None] = lambda: None
    plays: int = 1
    remaining: Callable[[], int] = lambda: 1
    place: str | None = None


def to_pixels(samples: Tensor) -> Tensor:
    """Samples (H, W, 1 or 3), as in an Image -> float32 (H, W, 3) on [0, 1]; grey in three equal channels."""
    return samples.float().div_(WHITE[samples.dtype]).expand(-1, -1, 3).contiguous()


def to_samples(pixels: Tensor, dtype: torch.dtype, channels: int) -> Tensor:
    """float32 (H, W, 3) -> dtype (H, W, 1 or 3). For integers, pixels are clipped to [0, 1] and rounded."""
    colour = pixels.mean(2, keepdim=True) if channels == 1 else pixels
    return colour if dtype == torch.float32 else to_integers(colour, dtype)


def to_integers(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats -> integers of this type, clipped to [0, 1] and rounded."""
    return values.clamp(0, 1).mul_(WHITE[dtype]).round_().to(dtype)


def to_array(image: Image) -> NDArray[Any]:
    """(H, W) or (H, W, channels), alpha last, in the type of the file, with the values of missing samples."""
    samples: NDArray[Any] = image.samples.numpy()
    alpha: NDArray[Any] | None = None if image.alpha is None else image.alpha.unsqueeze(2).numpy()
    if image.stored:
        samples = to_stored(samples, image.stored)
        alpha = None if alpha is None else to_stored(alpha, image.stored)
    if image.missing:
        samples = image.missing.put_back(samples)
    if alpha is not None:
        samples = np.concatenate((samples, alpha), 2)
    return samples[..., 0] if samples.shape[2] == 1 else samples


def with_missing(image: Image) -> Image:
    """The image with the values of its missing samples among the others."""
    if image.missing is None:
        return image
    whole = image.missing.put_back(image.samples.numpy())
    return replace(image, samples=torch.from_numpy(whole), missing=None)


def from_array(
    values: NDArray[Any], bits: int, metadata: Metadata, orientation: int = 1, nodata: float | None = None
) -> Image:
    """The Image of an array (H, W) or (H, W, channels), alpha last, turned as EXIF's orientation says.

    values: floats, signed integers, or unsigned integers of `bits` bits. nodata: the value of samples that are
    missing; integers that are scaled to another depth have none. Raises UnsupportedImage.
    """
    values = values.reshape(*values.shape[:2], -1)
    scaled = not is_kept(values.dtype, bits)
    if values.shape[2] not in (1, 2, 3, 4):
        raise UnsupportedImage(f"The image has {values.shape[2]} channels. {SUPPORTED_PIXELS}.")
    values = _turn_upright(values, orientation)
    has_alpha = values.shape[2] in (2, 4)
    colour, alpha = (values[..., :-1], values[..., -1]) if has_alpha else (values, None)
    try:
        colour, missing = take_missing(colour, None if scaled else nodata, scaled)
    except ValueError as error:
        raise UnsupportedImage(f"The image's {error}. Replace them by NaN.") from error
    stored = values.dtype.name if values.dtype.name in STORED_TYPES else ""
    samples = np.ascontiguousarray(_to_depth(colour, bits))
    _refuse_overflow(samples, _MAX_INTEGER if values.dtype.kind in "iu" else MAX_FLOAT)
    return Image(
        torch.from_numpy(samples),
        None if alpha is None else torch.from_numpy(np.ascontiguousarray(_to_depth(alpha, bits))),
        metadata.upright(),
        missing,
        stored,
    )


def convert_mode(image: Image, colour: bool, alpha: bool) -> Image:
    """The image with three channels if `colour`, and with alpha if `alpha`. Never removes a channel."""
    if colour and image.grey:
        image = with_missing(image)
        image = replace(image, samples=image.samples.expand(-1, -1, 3).contiguous())
    samples, mask = image.samples, image.alpha
    if alpha and mask is None:
        mask = torch.full(samples.shape[:2], WHITE[samples.dtype]).to(samples.dtype)
    return replace(image, samples=samples, alpha=mask)


def is_kept(dtype: np.dtype[Any], bits: int) -> bool:
    """Whether samples of this type keep the units of the file. Otherwise they are scaled to another depth."""
    return dtype.kind == "f" or dtype.name in STORED_TYPES or bits in (8, 16)


def scaled_words(bits: int) -> str:
    """That integers of these bits are scaled to another depth, in words."""
    return f"{bits} bit{'s' * (bits > 1)} to {8 if bits < 8 else 16}, scaled"


def _turn_upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    across, down = {1: (1, 1), 2: (-1, 1), 3: (-1, -1), 4: (1, -1)}[orientation]
    return values[::down, ::across]


def _to_depth(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """The values as uint8, uint16 or float32; integers of other depths up to 16 bits are scaled to the next."""
    if values.dtype.kind == "f" or values.dtype.name in STORED_TYPES:
        return values.astype(np.float32, copy=False)
    if is_kept(values.dtype, bits):
        return values.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    white, dtype = (255, np.uint8) if bits < 8 else (65535, np.uint16)
    most = 2**bits - 1
    scaled = np.empty(values.shape, dtype)
    for top in range(0, len(values), STRIP):
        strip = values[top : top + STRIP].astype(np.uint32)
        scaled[top : top + STRIP] = (strip * white + most // 2) // most
    return scaled


def _refuse_overflow(values: NDArray[Any], most: float) -> None:
    if values.dtype.kind != "f":
        return
    for top in range(0, len(values), STRIP):
        if not (np.abs(values[top : top + STRIP]) <= most).all():
            raise UnsupportedImage(
                f"The image has samples beyond {most:g}, the limit. Divide them by a constant, or declare the "
                "value of missing samples as GDAL's nodata or replace it by NaN."
            )
