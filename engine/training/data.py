"""Data of a training run: photos or files of pairs, as a source of batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from engine.data.readers import PAIR_FILES, read_pair_file
from engine.data.sources import PairSource, RecordedPairs, generated_pairs, held_out_count
from engine.training.photos import open_photos
from engine.training.recipe import Recipe


@dataclass(frozen=True)
class DataCounts:
    """How many images or pairs were used, how many of these were held out; and the files that were left out."""

    unit: Literal["images", "pairs"]
    used: int
    held_out: int
    left_out: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For people, and for the metadata of weights."""
        count = len(self.left_out)
        left_out = f"; {count} file{'s' * (count > 1)} left out" if count else ""
        return f"{self.used} {self.unit}, {self.held_out} of them held out{left_out}"


@dataclass(frozen=True)
class OpenedData:
    """A source of batches, and what it was made of; None for synthetic images."""

    source: PairSource
    counts: DataCounts | None


def open_data(
    data: Sequence[Path], recipe: Recipe, device: torch.device | str, warn: Callable[[str], None]
) -> OpenedData:
    """The source of pairs for these paths. device: where batches are made and used.

    - .pkl or .pt files: recorded pairs.
    - Folders: photos, with noise from the recipe's model.
    - No paths: synthetic images with noise from the model.

    warn: called with a message for each photo that is left out. Raises ValueError saying what is wrong with which
    path, and OSError if there is no room for the images.
    """
    files = [path for path in data if path.is_file() and path.suffix in PAIR_FILES]
    for path in data:
        if path not in files and not path.is_dir():
            expected = f"a folder of photos, or a file of pairs ({' or '.join(PAIR_FILES)})"
            raise ValueError(f"{path}: expected {expected}")
    if files and len(files) < len(data):
        raise ValueError("files of pairs and folders of photos cannot be mixed; give only one of the two")
    if files:
        pairs = [pair for file in files for pair in read_pair_file(file)]
        recorded = RecordedPairs(pairs, recipe.patch, recipe.seed, device)
        return OpenedData(recorded, DataCounts("pairs", len(pairs), held_out_count(len(pairs))))
    noise = recipe.noise_model()
    photos, counts = None, None
    if data:
        photos, reader, held_out = open_photos(
            data,
            side=recipe.patch * noise.largest_scale,
            seed=recipe.seed,
            zoom=recipe.zoom,
            tries=recipe.tries,
            device=device,
            warn=warn,
        )
        names = tuple(sorted(file.name for file, _ in reader.left_out))
        counts = DataCounts("images", reader.used, held_out, names)
    source = generated_pairs(
        photos,
        noise,
        patch=recipe.patch,
        seed=recipe.seed,
        synthetic=recipe.synthetic,
        pattern_share=recipe.patterns,
        measured_share=recipe.measured,
        device=device,
        held_out_noise=recipe.validation_noise(),
    )
    return OpenedData(source, counts)
