"""The Python API: denoise arrays and files, estimate noise, read and write image files.

>>> import engine
>>> noisy = engine.read_image("noisy.png")
>>> engine.write_image("clean.png", engine.denoise(noisy))
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.batch.tasks import DenoiseOptions, denoise_bytes
from engine.defaults import (
    COLOUR,
    GRAIN,
    MAX_SHARE,
    MAX_STRENGTH,
    MEMORY_BUDGET,
    MIN_SHARE,
    MIN_STRENGTH,
    STRENGTH,
    Colour,
    Switch,
)
from engine.imageio.formats import FORMATS, WRITABLE_FORMATS
from engine.imageio.image import Image, ImageSequence, from_array, to_array
from engine.imageio.metadata import NO_METADATA
from engine.imageio.read import read
from engine.imageio.write import encode
from engine.inference.denoise import OutputOptions
from engine.inference.denoise import denoise as denoise_one
from engine.inference.model_selection import AUTO_MODELS, LoadedModel, known_adapted, load_with
from engine.inference.mosaic import mosaic_nets
from engine.inference.noise_estimation import NoiseEstimate
from engine.inference.noise_estimation import estimate_noise as estimate_of
from engine.inference.preparation import PreparationOptions, prepare_pages
from engine.models import checkpoint, precision
from engine.system.atomic_file import write_atomically
from engine.system.os_errors import reason

Array = TypeVar("Array", NDArray[Any], Tensor)
# Types of samples. Floating point of another size than 32 bits is computed as float32.
TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "bfloat16", "float32", "float64")
# Grey, grey with transparency, RGB, RGB with transparency.
CHANNELS = (1, 2, 3, 4)


def load_model(name: str | Path, device: str = "auto", precision: str = "auto") -> LoadedModel:
    """Load weights once, to denoise many images with them.

    name: of shipped weights ("photo"), "auto" or "auto-large", which look at the noise, or the path of a
    .safetensors file. The environment variable DENOISE_WEIGHTS may name a folder of your own weights: they are
    known by name too, and "auto" takes those that were adapted to the image's noise. device: "auto" (a GPU if
    there is one), "cpu" or "cuda". precision: "auto" (whichever is faster here), "float32" or "bfloat16".
    Raises ValueError if there are no such weights, or the file does not fit.
    """
    adapted = known_adapted() if str(name) in AUTO_MODELS else {}
    return load_with(lambda each: _load(checkpoint.find(each), device, precision), str(name), adapted)


def denoise(
    image: Array,
    model: str | Path | LoadedModel = "auto",
    strength: float = STRENGTH,
    grain: float = GRAIN,
    memory_budget: int = MEMORY_BUDGET,
    normalise: Switch = "auto",
    impulses: Switch = "auto",
    banding: Switch = "auto",
    force: bool = False,
) -> Array:
    """An image, or a stack of images, without its noise. The result has the input's shape and type.

    image: (H, W), (H, W, C), or a stack (N, H, W) or (N, H, W, C). C is 1 (grey) or 3 (RGB), or 2 or 4 with
    transparency, which stays as it is. A three-dimensional array is a stack unless its last side is 1 to 4.
    uint8 and uint16 use their full range. In floating point 1 is white for photographs; measured values may have
    any range, and so may int8, int16, int32 and uint32. Floats give results finer than whole counts: pass
    image.astype("float32"). Values that are NaN or infinite stay as they are, and do not affect others.
    model: a name or path, as for `load_model`, loaded once and kept; or a LoadedModel. For a stack, `auto` looks
    at the first image that is not blank or drawn, and measures the noise over all. strength: the part of the
    noise that is removed, 0 to 1. Above 1, up to 1.5, two more passes smooth further: one sees the noise made
    stronger by this factor, one the result. grain: the share of the fine brightness noise that is put back, 0 to
    1, for a natural look. memory_budget: the most memory for the network, in bytes. normalise, impulses, banding:
    "auto", or "off" to leave that step out. force: also denoise an image that is certainly clean, such as a
    drawing, which otherwise stays as it is.
    Raises ValueError for another shape or type, for values beyond 1e9, or for a strength or grain out of range.

    >>> import numpy as np, engine
    >>> frames = np.random.default_rng(0).normal(0.5, 0.1, (2, 40, 30)).astype(np.float32)
    >>> clean = engine.denoise(frames, model="photo-gaussian")
    >>> clean.shape, clean.dtype, bool(clean.std() < 0.02)
    ((2, 40, 30), dtype('float32'), True)
    """
    output = _output_options(strength, grain)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    images = _images(image)
    samples = [each.samples for each in images]
    selection = loaded.select(samples)
    steps = PreparationOptions.of(normalise, impulses, banding, force)
    preparations = prepare_pages(samples, selection.estimate, steps)
    run = partial(denoise_one, selection.net, memory_budget=memory_budget, options=output)
    clean = [run(each, preparation=own) for each, own in zip(images, preparations, strict=True)]
    return _like(image, clean)


def denoise_file(
    source: str | Path,
    target: str | Path,
    model: str | Path | LoadedModel = "auto",
    strength: float = STRENGTH,
    grain: float = GRAIN,
    colour: Colour = COLOUR,
    quality: int | None = None,
    normalise: Switch = "auto",
) -> tuple[str, ...]:
    """Denoise an image file, as `denoise run` does. Returns what was done and what is lost, in words.

    target: its suffix names the format; an existing file is replaced. Metadata is kept. Camera raw files are
    denoised before they are developed if their noise is known, and again after it. An array from `read_image` is
    developed already. colour: as for `read_image`. quality: as for `write_image`; by default a JPEG file that
    stays one keeps its quality and chroma subsampling. model, strength, grain, normalise: as for `denoise`; "off"
    also leaves out the step before developing.
    Raises ValueError as `read_image`, `denoise` and `write_image` do, and OSError.
    """
    output = _output_options(strength, grain)
    target = Path(target)
    kind = _format_of(target)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    options = DenoiseOptions(
        quality=quality,
        output=output,
        colour=colour,
        preparation=PreparationOptions(normalise=normalise == "auto"),
        mosaic_nets=mosaic_nets(loaded),
    )
    written = denoise_bytes(loaded.select, Path(source).read_bytes(), kind, options)
    write_atomically(target, written.data)
    return written.changed


def estimate_noise(image: Array) -> NoiseEstimate:
    """The noise of an image, or of the first image of a stack. image: as for `denoise`.

    >>> import numpy as np, engine
    >>> grey = np.random.default_rng(0).normal(128, 10, (256, 256)).round().astype(np.uint8)
    >>> round(engine.estimate_noise(grey).luma.sigma)
    10
    """
    return estimate_of(_images(image)[0].samples)


def read_image(path: str | Path, page: int | None = None, colour: Colour = COLOUR) -> NDArray[Any]:
    """The image in a file: (H, W) or (H, W, C), in the file's type; of several pages, a stack of them.

    The type is uint8, uint16 or float32, and of a TIFF file also another one of TYPES.

    C is 3, or with transparency 2 (grey) or 4. page: only this page, or frame of an animation, counted from 1.
    colour: the colour space that a camera raw file is developed to, "srgb" or "prophoto".
    Colour profile and EXIF are not in the array: see `write_image`.
    Raises ValueError if the file is no image, or its pages differ in size or kind, or if a colour space is chosen
    for a file that is not camera raw; and OSError.
    """
    arrays = [to_array(each) for each in read(Path(path).read_bytes(), page=page, colour=colour).pages]
    if len(arrays) == 1:
        return arrays[0]
    if len({(array.shape, array.dtype) for array in arrays}) > 1:
        raise ValueError(
            f"{path}: its {len(arrays)} pages differ in size or kind. Read one at a time, with page=."
        )
    return np.stack(arrays)


def write_image(
    path: str | Path,
    image: NDArray[Any] | Tensor,
    quality: int | None = None,
    metadata_from: str | Path | None = None,
    colour: Colour = COLOUR,
) -> None:
    """Write an image, or a stack as pages, in the format that the file's suffix names.

    image: as `read_image` gives it. quality: 1 to 100, for JPEG, WebP and AVIF. metadata_from: an image file
    whose colour profile, EXIF and XMP are written too, as far as the format can hold them. colour: if that is a
    camera raw file, the colour space that it was read in.
    Raises ValueError for a suffix that is not written, or an image that the format cannot hold, and OSError.
    """
    path = Path(path)
    kind = FORMATS[_format_of(path)]
    pages = _pages(np.asarray(image.cpu()) if isinstance(image, Tensor) else image)
    if metadata_from is not None:
        known = read(Path(metadata_from).read_bytes(), page=1, colour=colour).pages[0].metadata
        pages = [replace(page, metadata=known) for page in pages]
    write_atomically(path, encode(ImageSequence(kind, tuple(pages)), kind, quality).data)


def _output_options(strength: float, grain: float) -> OutputOptions:
    """Raises ValueError for a value out of range."""
    _check("strength", strength, MIN_STRENGTH, MAX_STRENGTH)
    _check("grain", grain, MIN_SHARE, MAX_SHARE)
    return OutputOptions(strength=strength, grain=grain)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is from {least:g} to {most:g}; got {value:g}")


def _format_of(path: Path) -> str:
    """The format that a file name's suffix stands for."""
    found = [name for name in WRITABLE_FORMATS if path.suffix.lower() in FORMATS[name].suffixes]
    if not found:
        endings = ", ".join(FORMATS[name].suffixes[0] for name in WRITABLE_FORMATS)
        raise ValueError(f"{path}: no format is written with this suffix. Choose one of {endings}.")
    return found[0]


def _load(path: Path, device: str, kind: str) -> checkpoint.Model:
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {reason(error)}") from error
    return _load_version(path, (status.st_mtime_ns, status.st_size), device, kind)


@cache
def _load_version(path: Path, version: tuple[int, int], device: str, kind: str) -> checkpoint.Model:
    """version: modification time and size of the file, so that a file that was trained anew is loaded anew."""
    place = precision.pick_device(device)
    compute = _fastest(str(place)) if kind == "auto" else precision.resolve(kind, place)
    return checkpoint.load(path, place, compute)


@cache
def _fastest(device: str) -> torch.dtype:
    return precision.resolve("auto", device)


def _images(image: NDArray[Any] | Tensor) -> list[Image]:
    """The images in an array. Raises ValueError as `denoise` does."""
    if not isinstance(image, np.ndarray | Tensor):
        raise ValueError(f"an image is a numpy array or a torch tensor; got {type(image).__name__}")
    kind = str(image.dtype).removeprefix("torch.").lstrip("<>=")
    if np.dtype(kind).name not in TYPES if isinstance(image, np.ndarray) else kind not in TYPES:
        raise ValueError(f"samples are one of {', '.join(TYPES)}; got {image.dtype}")
    if not all(image.shape):
        raise ValueError(f"the image has no pixels: its shape is {tuple(image.shape)}")
    if isinstance(image, Tensor):
        plain = image.detach().cpu()
        return _pages((plain.float() if plain.is_floating_point() else plain).numpy())
    return _pages(image.astype(np.float32) if image.dtype.kind == "f" else image)


def _pages(array: NDArray[Any]) -> list[Image]:
    shape = array.shape
    if len(shape) == 2 or (len(shape) == 3 and shape[-1] in CHANNELS):
        array = array[None]
    elif len(shape) not in (3, 4) or (len(shape) == 4 and shape[-1] not in CHANNELS):
        raise ValueError(
            "an image is (H, W) or (H, W, C), a stack is (N, H, W) or (N, H, W, C), with 1 to 4 channels;"
            f" got {tuple(shape)}"
        )
    # Copied: what is computed later must not change with the caller's array.
    native = array.dtype.newbyteorder("=")
    return [from_array(np.array(page, native, order="C"), 8 * native.itemsize, NO_METADATA) for page in array]


def _like(given: Array, images: Sequence[Image]) -> Array:
    """The images in an array of the given one's shape and type."""
    stacked = np.stack([to_array(each) for each in images]).reshape(tuple(given.shape))
    if isinstance(given, Tensor):
        return torch.from_numpy(stacked).to(given.device, given.dtype)
    return stacked.astype(given.dtype, copy=False)
