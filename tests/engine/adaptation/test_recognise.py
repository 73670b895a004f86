"""Recognition of shots in a folder that was given as photos."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from engine.adaptation.recognise import ShotsFound, find_shots, refuse_shots
from tests.support.bursts import photons, scene, shots, white

SCENES = 3


def save(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, frame.clamp(0, 65535).numpy().astype("uint16"))


def frames(number, count=2, noise=None):
    return shots(scene(number, 96), noise or white(25), count, number)


def write_pairs(folder):
    for number in range(SCENES):
        for shot, frame in enumerate(frames(number), 1):
            save(folder / f"plug{'abc'[number]}_{shot}.tif", frame)


def write_bursts(folder):
    for number in range(SCENES):
        for shot, frame in enumerate(frames(number, 4)):
            save(folder / f"{'abc'[number]}_{shot}.tif", frame)


def write_one_burst(folder):
    for shot, frame in enumerate(frames(0, 7)):
        save(folder / f"frame{shot:04}.tif", frame)


def write_folder_for_each_scene(folder):
    for number in range(SCENES):
        for shot, frame in enumerate(frames(number, 3)):
            save(folder / f"scene{number}" / f"{shot}.tif", frame)


def write_two_folders(folder):
    for number in range(SCENES):
        for part, frame in zip(("first", "second"), frames(number), strict=True):
            save(folder / part / f"{'abc'[number]}.tif", frame)


def write_stacks(folder):
    folder.mkdir(exist_ok=True)
    for number in range(SCENES):
        stack = torch.stack(frames(number, 4)).numpy().astype("uint16")
        tifffile.imwrite(folder / f"{'abc'[number]}.tif", stack, photometric="minisblack")


def write_means(folder):
    for number in range(SCENES):
        noisy, *others = frames(number, 20)
        save(folder / f"{'abc'[number]}_noisy.tif", noisy)
        save(folder / f"{'abc'[number]}_mean.tif", torch.stack(others).mean(0))


def write_counts(folder):
    """So few photons that images alone cannot tell; the names do."""
    for number in range(SCENES):
        for shot, frame in enumerate(frames(number, 2, photons(0.5)), 1):
            save(folder / f"{'abc'[number]}_{shot}.tif", frame)


@pytest.mark.parametrize(
    ("write", "kind", "example"),
    [
        (write_pairs, "pair", ("pluga_1.tif", "pluga_2.tif")),
        (write_bursts, "burst", ("a_0.tif", "a_1.tif")),
        (write_one_burst, "burst", ("frame0000.tif", "frame0001.tif")),
        (write_folder_for_each_scene, "burst", ("scene0/0.tif", "scene0/1.tif")),
        (write_two_folders, "pair", ("first/a.tif", "second/a.tif")),
        (write_stacks, "stack", ("a.tif",)),
        (write_means, "mean", ("a_noisy.tif", "a_mean.tif")),
        (write_counts, "pair", ("a_1.tif", "a_2.tif")),
    ],
)
def test_shots_are_recognised(tmp_path, write, kind, example):
    write(tmp_path / "shots")

    found = find_shots(tmp_path / "shots")

    assert (found.kind, found.example) == (kind, example)


def write_photos(folder, names):
    for number, name in enumerate(names):
        save(folder / f"{name}.tif", frames(number, 1)[0])


@pytest.mark.parametrize(
    "names",
    [
        ("beach_1", "beach_2", "wedding_1", "wedding_2"),
        ("IMG_0001", "IMG_0002", "IMG_0003", "IMG_0004"),
        ("1", "2", "3"),
        ("photo (1)", "photo (2)", "photo (3)"),
        ("cat", "dog", "owl"),
    ],
)
def test_photos_are_no_shots_whatever_their_names(tmp_path, names):
    write_photos(tmp_path, names)

    assert find_shots(tmp_path) is None


def test_two_photos_of_one_scene_among_others_are_photos(tmp_path):
    first, second = frames(0)
    save(tmp_path / "IMG_0001.tif", first)
    save(tmp_path / "IMG_0002.tif", second)
    for number in range(1, 6):
        save(tmp_path / f"IMG_{number + 2:04}.tif", frames(number, 1)[0])

    assert find_shots(tmp_path) is None


def test_a_raw_file_and_its_jpeg_are_one_photo(tmp_path):
    for number, name in enumerate(("cat", "dog", "owl")):
        frame = frames(number, 1)[0]
        save(tmp_path / f"{name}.tif", frame)
        Image.fromarray((frame - 1000).clamp(0, 255).numpy().astype(np.uint8)).save(tmp_path / f"{name}.jpg")

    assert find_shots(tmp_path) is None


def test_pages_of_different_scenes_are_photos(tmp_path):
    for letter in "ab":
        pages = torch.stack([frames(number, 1)[0] for number in range(3)]).numpy().astype("uint16")
        tifffile.imwrite(tmp_path / f"{letter}.tif", pages, photometric="minisblack")

    assert find_shots(tmp_path) is None


def test_files_that_cannot_be_read_are_no_shots(tmp_path):
    for name in ("a_1.tif", "a_2.tif", "b_1.tif", "b_2.tif"):
        (tmp_path / name).write_text("no image")

    assert find_shots(tmp_path) is None


def test_a_folder_without_images_holds_no_shots(tmp_path):
    assert find_shots(tmp_path) is None


def test_the_refusal_has_the_command(tmp_path):
    folder = tmp_path / "my shots"
    write_pairs(folder)

    with pytest.raises(ShotsFound) as error:
        refuse_shots([folder], tmp_path / "own.safetensors", ["--minutes", "5"])

    assert f"{folder} holds pairs of shots, such as pluga_1.tif and pluga_2.tif, " in str(error.value)
    assert f": denoise adapt '{folder}' --out {tmp_path / 'own.safetensors'} --minutes 5. " in str(error.value)
    assert "add --as photos" in str(error.value)


def test_files_of_pairs_and_photos_are_not_refused(tmp_path):
    write_photos(tmp_path, ("cat", "dog"))

    refuse_shots([tmp_path, tmp_path / "pairs.pkl"], tmp_path / "own.safetensors")
