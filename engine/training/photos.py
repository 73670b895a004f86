"""Photos of a training run: read, mapped to the network's range as in serving, and some of them held out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.data.patch_store import concatenate_by_type
from engine.data.shot_names import group_by_name
from engine.data.sources import SceneSource, drawn_order, held_out_count, photo_source
from engine.imageio.formats import SUPPORTED_FORMATS
from engine.imageio.image import to_pixels
from engine.imageio.mapped_file import map_file
from engine.imageio.read import image_files, read_pages
from engine.inference.noise_estimation.blocks import tiles_of
from engine.inference.noise_estimation.config import DEFAULT_CONFIG
from engine.inference.noise_estimation.value_range import is_even, range_of, without_even_channels
from engine.inference.normalisation import normalisation_for
from engine.system.os_errors import reason

# Shortest side of a photo, in pixels.
MIN_SIDE = 16
# The patch store's scale.
WHITE = 255.0
# The parts into which photos are split.
TRAINING = "training"
HELD_OUT = "held out"


class PhotoReader:
    """Reads photos of any range. Those that cannot be read are left out, with a warning that names them.

    side: smaller photos are continued by their mirror image to this side, in pixels. warn: called with messages.
    """

    def __init__(self, side: int, warn: Callable[[str], None]) -> None:
        self.side, self.warn = side, warn
        # Images, of which a file may hold several.
        self.used = 0
        # Files, and why.
        self.left_out: list[tuple[Path, str]] = []

    def read(self, file: Path) -> Iterator[Tensor]:
        """The photos of a file as the patch store holds them, (H, W, 3) each: uint8, or float32 on 0-255."""
        pages = 0
        try:
            with map_file(file) as data:
                for image, _ in read_pages(data):
                    height, width = image.samples.shape[:2]
                    if min(height, width) < MIN_SIDE:
                        raise ValueError(
                            f"{width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed"
                        )
                    yield mirrored(normalised(image.samples), self.side)
                    pages += 1
        except (ValueError, OSError) as error:
            text = reason(error) if isinstance(error, OSError) else str(error)
            text = text.removesuffix(f" {SUPPORTED_FORMATS}.").rstrip(".")
            before = f"; the {pages} images before that are used" if pages else ""
            self.left_out.append((file, text))
            self.warn(f"left out {file}: {text}{before}")
        self.used += pages


def open_photos(
    folders: Sequence[Path],
    *,
    side: int,
    seed: int,
    zoom: float,
    tries: int,
    device: torch.device | str,
    warn: Callable[[str], None],
) -> tuple[tuple[SceneSource, SceneSource], PhotoReader, int]:
    """Photos for training and for validation; what read them; and how many images are held out.

    The seed draws which are held out. Images of one scene, by their names, are never on both sides.
    Raises ValueError if there are too few photos that can be used.
    """
    scenes = _scenes([file for folder in folders for file in image_files(folder)])
    reader = PhotoReader(side, warn)
    counts = {TRAINING: 0, HELD_OUT: 0}

    def photos() -> Iterator[tuple[str, Tensor]]:
        # How many can be read is known only at the end. So scenes are read in the order that the seed draws, and
        # of those read so far the right number is always held out.
        read = held_out = 0
        for number in drawn_order(len(scenes), seed):
            part = HELD_OUT if held_out_count(read + 1) > held_out else TRAINING
            before = reader.used
            for file in scenes[number]:
                yield from ((part, photo) for photo in reader.read(file))
            if reader.used > before:
                counts[part] += reader.used - before
                read += 1
                held_out += part == HELD_OUT

    # Decoded one by one as the store takes them: all together may not fit in memory.
    parts = concatenate_by_type(photos())
    if not all(counts.values()):
        raise ValueError(_too_few(scenes, reader))
    training, held_out = (photo_source(parts[part], zoom, tries, device) for part in (TRAINING, HELD_OUT))
    return (training, held_out), reader, counts[HELD_OUT]


def _too_few(scenes: Sequence[Sequence[Path]], reader: PhotoReader) -> str:
    files = sum(map(len, scenes))
    if not reader.left_out:
        return f"at least 2 photos are needed, 1 of them for validation; found {len(scenes)}"
    file, text = reader.left_out[0]
    example = f"for example {file}: {text}"
    if not reader.used:
        return f"none of the {files} photos can be read; {example}"
    left_out = len(reader.left_out)
    return (
        f"at least 2 photos are needed, 1 of them for validation; {left_out} of {files} cannot be read, {example}"
    )


def _scenes(files: Sequence[Path]) -> list[list[Path]]:
    """Files that by their names certainly show one scene, together: shots, and a raw file with its JPEG."""
    by_folder: dict[Path, dict[str, list[Path]]] = {}
    for file in files:
        by_folder.setdefault(file.parent, {}).setdefault(file.stem, []).append(file)
    scenes = []
    for stems in by_folder.values():
        for group in group_by_name([same[0] for same in stems.values()], own_folder=False):
            members = [*group.files, *([group.mean] if group.mean else [])]
            parts = [members] if group.belief == "certain" else [[member] for member in members]
            scenes += [[file for member in part for file in stems[member.stem]] for part in parts]
    return sorted(scenes)


def normalised(samples: Tensor) -> Tensor:
    """The samples (H, W, C) of an image on the network's range times 255, (H, W, 3), as serving maps them.

    Photographs of 8 bits stay bytes; all else is float32, and nothing is clipped or rounded. A photograph of
    floats or 16 bits that lies far below white, such as counts of 0-684, is also scaled to white. That makes no
    difference to serving, but here noise is drawn on the network's range.
    """
    seen = without_even_channels(samples)
    found = normalisation_for(seen)
    if found is not None:
        return WHITE * found.forward(seen).expand(-1, -1, 3)
    if seen.dtype == torch.uint8:
        return seen.expand(-1, -1, 3)
    pixels = to_pixels(seen)
    if is_even(seen):
        # It has no range, and may be of other units.
        return WHITE * pixels.clamp(0, 1)
    _, high = range_of(tiles_of(pixels, DEFAULT_CONFIG))
    return WHITE * pixels / min(high, 1.0)


def mirrored(image: Tensor, side: int) -> Tensor:
    """(H, W, C), continued downwards and to the right by its mirror image to at least that side.

    Noise is drawn afterwards, so it is not mirrored.
    """
    rows, columns = (_mirrored_indices(length, max(length, side)) for length in image.shape[:2])
    return image if len(rows) == image.shape[0] and len(columns) == image.shape[1] else image[rows][:, columns]


def _mirrored_indices(length: int, wanted: int) -> Tensor:
    """0, 1, ..., length - 1, length - 2, ..., 0, 1, ...: so many."""
    position = torch.arange(wanted) % (2 * length - 2)
    return torch.minimum(position, 2 * length - 2 - position)
