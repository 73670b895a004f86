"""Scenes: what a folder is taken for, by names and, where they leave it open, by the images."""

import numpy as np
import pytest
import tifffile
import torch

from engine.adaptation.scenes import find_scenes
from tests.support.bursts import scene, shots, white
from tests.support.czi_files import Tile, czi_file

SIDE = 64


def frames(number, count=2, side=SIDE):
    return [shot.numpy().astype(np.uint16) for shot in shots(scene(number, side), white(5), count, number)]


@pytest.fixture
def save(tmp_path):
    """save(path, array, ...): writes TIFF files below the folder."""

    def write(name, *pages):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, pages[0] if len(pages) == 1 else np.stack(pages), photometric="minisblack")

    return write


def found(folder, kind="auto"):
    """{name of the scene: (kind, its files)}."""
    return {
        each.name: (each.kind, [shot.name for shot in each.shots]) for each in find_scenes(folder, kind).scenes
    }


def test_numbers_at_the_end_make_pairs_and_bursts(tmp_path, save):
    for name, count in (("plug", 2), ("chair", 3)):
        for number, frame in enumerate(frames(count, count), 1):
            save(f"{name}_{number}.tif", frame)

    assert found(tmp_path) == {
        "chair": ("burst", ["chair_1.tif", "chair_2.tif", "chair_3.tif"]),
        "plug": ("pair", ["plug_1.tif", "plug_2.tif"]),
    }


def test_shots_are_in_the_order_of_their_numbers(tmp_path, save):
    for number, frame in enumerate(frames(1, 11), 1):
        save(f"a_{number}.tif", frame)
    for number, frame in enumerate(frames(2, 2), 1):
        save(f"b_{number}.tif", frame)

    assert found(tmp_path)["a"][1] == [f"a_{number}.tif" for number in range(1, 12)]


def test_a_folder_may_be_a_scene(tmp_path, save):
    for name in ("one", "two"):
        for number, frame in enumerate(frames(len(name) + (name == "two"), 3)):
            save(f"{name}/frame-{number:02}.tif", frame)

    assert {name: kind for name, (kind, _) in found(tmp_path).items()} == {"one": "burst", "two": "burst"}


def test_two_folders_with_equal_names_are_pairs(tmp_path, save):
    for number in (1, 2, 3):
        for folder, frame in zip(("first", "second"), frames(number), strict=True):
            save(f"{folder}/image{number}.tif", frame)

    assert {kind for kind, _ in found(tmp_path).values()} == {"pair"}
    assert len(found(tmp_path)) == 3


def test_a_folder_of_means_beside_noisy_shots_is_known(tmp_path, save):
    for number in (1, 2):
        first, second = frames(number)
        save(f"noisy/{number}.tif", first)
        save(f"mean/{number}.tif", second)

    scenes = find_scenes(tmp_path).scenes

    assert [each.kind for each in scenes] == ["mean", "mean"]
    assert all(each.reference.path.parent.name == "mean" for each in scenes)


def test_the_numbers_of_a_camera_make_no_burst(tmp_path, save):
    for number in range(3):
        save(f"IMG_{2041 + number}.tif", frames(number, 1)[0])

    assert [kind for kind, _ in found(tmp_path).values()] == ["single"] * 3


def test_camera_numbers_of_one_scene_are_a_burst(tmp_path, save):
    for number, frame in enumerate(frames(1, 3)):
        save(f"IMG_{2041 + number}.tif", frame)

    assert found(tmp_path) == {"IMG": ("burst", ["IMG_2041.tif", "IMG_2042.tif", "IMG_2043.tif"])}


def test_pages_of_one_scene_are_a_stack_and_others_single_shots(tmp_path, save):
    save("still.tif", *frames(1, 4))
    save("others.tif", *(frames(number, 1)[0] for number in (2, 3)))

    assert found(tmp_path) == {
        "others, page 1": ("single", ["others.tif, page 1"]),
        "others, page 2": ("single", ["others.tif, page 2"]),
        "still": ("stack", [f"still.tif, page {number}" for number in (1, 2, 3, 4)]),
    }


@pytest.mark.parametrize(("noisy", "mean"), [("a_real", "a_mean"), ("a_noisy", "a_avg400"), ("a", "a_gt")])
def test_a_mean_is_known_by_its_name(noisy, mean, tmp_path, save):
    first, second = frames(1)
    save(f"{noisy}.tif", first)
    save(f"{mean}.tif", second)

    [made] = find_scenes(tmp_path).scenes

    assert (made.kind, made.shots[0].path.stem, made.reference.path.stem) == ("mean", noisy, mean)


def test_a_truth_beside_the_frames_of_a_folder_is_no_shot(tmp_path, save):
    for number, frame in enumerate(frames(1, 3)):
        save(f"scene/frame-{number}.tif", frame)
    save("scene/truth.tif", frames(1, 1)[0])

    [made] = find_scenes(tmp_path).scenes

    assert (made.kind, len(made.shots), made.reference.name) == ("mean", 3, "truth.tif")


def test_a_mixed_folder_is_sorted_out(tmp_path, save):
    for number, frame in enumerate(frames(1), 1):
        save(f"plug_{number}.tif", frame)
    save("stack.tif", *frames(2, 3))
    save("alone.tif", frames(3, 1)[0])
    (tmp_path / "notes.txt").write_text("taken on Monday")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (tmp_path / ".hidden.tif").write_bytes(b"")

    folder = find_scenes(tmp_path)

    assert {each.name: each.kind for each in folder.scenes} == {
        "alone": "single",
        "plug": "pair",
        "stack": "stack",
    }
    assert {each.path.name: each.reason for each in folder.left_out} == {
        "notes.txt": "not an image, by its suffix",
        "broken.png": 'This is not an image: 7 bytes that begin with "nothing"',
    }


def test_shots_of_another_size_are_left_out_with_both_sizes(tmp_path, save):
    for number, frame in enumerate([*frames(1, 2), frames(1, 1, 96)[0]]):
        save(f"scene/frame-{number}.tif", frame)

    folder = find_scenes(tmp_path)

    assert [len(each.shots) for each in folder.scenes] == [2]
    assert folder.left_out[0].reason == (
        "96 x 96 pixels, grey, where the scene's first shot has 64 x 64 pixels, grey"
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("single", ["single"] * 4), ("burst", ["pair", "pair"]), ("stack", None), ("pair", ["pair", "pair"])],
)
def test_the_kind_can_be_chosen(kind, expected, tmp_path, save):
    for number in (1, 2):
        for shot, frame in enumerate(frames(number), 1):
            save(f"s{number}_{shot}.tif", frame)

    if expected is None:
        with pytest.raises(ValueError, match="no scenes of the kind 'stack' in this folder"):
            find_scenes(tmp_path, kind)
    else:
        assert [each for each, _ in found(tmp_path, kind).values()] == expected


def test_samples_keep_their_units_and_grey_is_one_channel(tmp_path):
    values = np.arange(64 * 64, dtype=np.int16).reshape(64, 64) - 2000
    tifffile.imwrite(tmp_path / "signed.tif", values, photometric="minisblack")
    tifffile.imwrite(tmp_path / "rgb.tif", np.stack([np.abs(values).astype(np.uint16)] * 3, 2))

    shots = {each.name: each.shots[0].read() for each in find_scenes(tmp_path).scenes}

    torch.testing.assert_close(shots["signed"][..., 0], torch.from_numpy(values).float())
    assert shots["rgb"].shape == (64, 64, 1)


def test_errors_say_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"none: no such folder\. Name a folder with noisy shots\."):
        find_scenes(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no images in this folder\. Supported formats"):
        find_scenes(tmp_path)
    with pytest.raises(ValueError, match=r"There is no kind 'pears' of shots\. Choose one of auto, pair, burst"):
        find_scenes(tmp_path, "pears")


def test_each_channel_of_a_microscopes_file_is_a_stack(tmp_path):
    channels = [frames(number, 3) for number in range(2)]
    tiles = [Tile(channels[c][t], {"T": t, "C": c}) for t in range(3) for c in range(2)]
    (tmp_path / "cells.czi").write_bytes(czi_file(*tiles))

    assert found(tmp_path) == {
        "cells, channel 1": ("stack", [f"cells.czi, page {page}" for page in (1, 3, 5)]),
        "cells, channel 2": ("stack", [f"cells.czi, page {page}" for page in (2, 4, 6)]),
    }
