"""Colours: checks the colour profile of an image that was read, and describes the colours as a format can."""

from dataclasses import replace
from functools import lru_cache
from io import BytesIO

import numpy as np
import torch

from engine.imageio.formats import Format
from engine.imageio.image import WHITE, Image
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.cicp import calibrated_profile, is_srgb_calibration, profile_of
from engine.imageio.metadata.icc import CMYK, GREY, RGB, grey_light, grey_version, profile_space
from engine.imageio.metadata.png import HDR_CHUNKS, png_calibration, png_chunk_kinds

_PROFILE_NAMES = {RGB: "RGB", GREY: "grey", CMYK: "CMYK"}
# Modes of Pillow by what a profile is for.
_MODES = {RGB: "RGB", GREY: "L", CMYK: "CMYK"}
# The word for colours that the format cannot describe. Others may search for it.
_WITHOUT = "without its colour space"


def drop_unusable_profile(image: Image) -> Image:
    """The image without its profile if that cannot be read, or is for other pixels; `lost` then says so."""
    metadata = image.metadata
    if not metadata.icc_profile:
        return image
    space = profile_space(metadata.icc_profile)
    if space is None or space not in _MODES or not is_usable_profile(metadata.icc_profile):
        return replace(image, metadata=metadata.without_profile("an unreadable colour profile"))
    # A grey image may have a profile for RGB: its greys are those with three equal channels.
    if space != RGB and not (space == GREY and image.grey):
        lost = f"a colour profile for {_PROFILE_NAMES[space]}, which the image is not"
        return replace(image, metadata=metadata.without_profile(lost))
    return image


# The pages of a file mostly have the same profile.
@lru_cache(maxsize=1)
def is_usable_profile(profile: bytes) -> bool:
    """Whether Little CMS can convert from it to sRGB."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _MODES.get(profile_space(profile) or b"", "")
        ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return False
    return True


def fit_colour(image: Image, kind: Format) -> tuple[Image, tuple[str, ...]]:
    """The image with its colours described as the format can, and what was changed, in words.

    Call it once the depth is one that the format holds, and before channels are added.
    """
    metadata = image.metadata
    grey = bool(image.grey and kind.writes and kind.writes.grey)
    if kind.name == "png":
        return _fit_png(image)
    words = _lost_chunks(metadata)
    code = metadata.colour_code
    if code and not code.is_srgb:
        if kind.name == "avif":
            return _with(image, replace(metadata, icc_profile=None)), words
        if profile := profile_of(code, grey):
            words += (f"{code.name} as a tone-mapped colour profile",) if code.is_hdr else ()
            return _with(image, replace(metadata, icc_profile=profile, colour_code=None)), words
        words += () if metadata.icc_profile else (f"{_WITHOUT} ({code.name})",)
    metadata = replace(metadata, colour_code=None)
    if metadata.icc_profile:
        if image.grey and not grey and profile_space(metadata.icc_profile) == GREY:
            image, more = _grey_to_srgb(image, metadata.icc_profile)
            return _with(image, replace(metadata, icc_profile=None)), words + more
        return _with(image, metadata), words
    profile, more = _calibrated(metadata, grey) if not code else (None, ())
    return _with(image, replace(metadata, icc_profile=profile)), words + more


def _with(image: Image, metadata: Metadata) -> Image:
    return replace(image, metadata=metadata)


def _fit_png(image: Image) -> tuple[Image, tuple[str, ...]]:
    """PNG takes a profile for RGB in colour images only."""
    profile = image.metadata.icc_profile
    if not profile or not image.grey or profile_space(profile) != RGB:
        return image, ()
    grey = grey_version(profile)
    words = () if grey else ("without its colour profile for RGB, which a grey PNG cannot hold",)
    return _with(image, replace(image.metadata, icc_profile=grey)), words


def _lost_chunks(metadata: Metadata) -> tuple[str, ...]:
    """The chunks of an HDR PNG that only PNG holds."""
    return ("without HDR mastering data",) if png_chunk_kinds(metadata.chunks) & HDR_CHUNKS else ()


def _calibrated(metadata: Metadata, grey: bool) -> tuple[bytes | None, tuple[str, ...]]:
    """A profile from a PNG's chunks of colour, if they describe other colours than sRGB."""
    kinds = png_chunk_kinds(metadata.chunks)
    if b"cICP" in kinds:
        return None, (_WITHOUT,)
    primaries, gamma = png_calibration(metadata.chunks)
    if b"sRGB" in kinds or is_srgb_calibration(primaries, gamma):
        return None, ()
    try:
        return calibrated_profile(primaries, gamma, grey), ()
    except ValueError:
        return None, (_WITHOUT,)


def _grey_to_srgb(image: Image, profile: bytes) -> tuple[Image, tuple[str, ...]]:
    """Integers of a grey image, converted from its profile to sRGB."""
    white = WHITE[image.samples.dtype]
    light = grey_light(profile, np.linspace(0, 1, white + 1))
    if light is None:
        return image, ("without its colour profile for grey",)
    # Source: IEC 61966-2-1:1999.
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    samples = image.samples.numpy()
    table = np.round(values * white).astype(samples.dtype)
    return replace(image, samples=torch.from_numpy(table[samples])), ("grey profile to sRGB",)
