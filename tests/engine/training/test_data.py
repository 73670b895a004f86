"""Data of a training run: which paths are photos and which are pairs."""

import pytest
import torch

from engine.data.sources import RecordedPairs
from engine.training.data import DataCounts, open_data
from engine.training.recipe import Recipe
from tests.support.pixels import generator, random_pixels, write_image

RECIPE = Recipe("photo", "gaussian", (0, 55), "muon", 0.006, 2, 8, channels=(4, 6), blocks=(1, 1, 1))


def stack(count=3, height=10, width=12, seed=0):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator(seed))


def open_with(*data, warn=pytest.fail):
    return open_data(data, RECIPE, "cpu", warn)


def test_a_file_of_pairs_is_a_source(tmp_path):
    torch.save((stack(seed=1), stack(seed=2)), tmp_path / "pairs.pkl")

    opened = open_with(tmp_path / "pairs.pkl")

    assert isinstance(opened.source, RecordedPairs)
    assert opened.source.draw(1, 2, generator()).noisy.shape == (2, 8, 8, 3)
    assert opened.counts == DataCounts("pairs", 3, 1)


def test_several_files_of_pairs_are_one(tmp_path):
    torch.save((stack(), stack()), tmp_path / "a.pt")
    torch.save((stack(4), stack(4)), tmp_path / "b.pkl")

    source = open_with(tmp_path / "a.pt", tmp_path / "b.pkl").source

    assert len(source.training) + len(source.held_out) == 7


def test_pairs_and_photos_are_not_mixed(tmp_path):
    torch.save((stack(), stack()), tmp_path / "pairs.pt")
    write_image(tmp_path / "photos" / "a.png", random_pixels(20, 20))

    with pytest.raises(ValueError, match="files of pairs and folders of photos cannot be mixed"):
        open_with(tmp_path / "pairs.pt", tmp_path / "photos")


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"nowhere: expected a folder of photos, or a file of pairs \(.pkl or .pt\)"
    ):
        open_with(tmp_path / "nowhere")


def test_a_folder_of_photos_is_counted(tmp_path):
    for name in "abcdefgh":
        write_image(tmp_path / f"{name}.png", random_pixels(20, 20))
    (tmp_path / "z.png").write_text("no image")
    warnings = []

    counts = open_with(tmp_path, warn=warnings.append).counts

    assert counts == DataCounts("images", 8, 2, ("z.png",))
    assert counts.words == "8 images, 2 of them held out; 1 file left out"
    assert len(warnings) == 1


def test_synthetic_images_are_not_counted():
    assert open_with().counts is None
