"""Photos of a training run: their range, which are held out, and which are left out."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from engine.data.noise.gaussian import GaussianNoise
from engine.data.noise.random_pixel import RandomPixelNoise
from engine.data.sources import generated_pairs
from engine.imageio.read import decode
from engine.inference.noise_estimation import estimate_noise
from engine.inference.preparation import prepare
from engine.training.photos import mirrored, normalised, open_photos
from tests.support.pixels import generator, random_pixels, write_image

# No noise: what is drawn is the photo itself.
SILENT = GaussianNoise(0, 0)


def plain(value, height=20, width=24):
    """An image that says by its brightness which it is."""
    return torch.full((height, width, 3), value, dtype=torch.uint8)


class Opened:
    """A source of pairs, and what was said about it."""

    def __init__(self, *folders, noise=SILENT, patch=8, seed=0, zoom=1.0, tries=1):
        self.warnings = []
        photos, self.reader, self.held_out = open_photos(
            folders,
            side=patch * noise.largest_scale,
            seed=seed,
            zoom=zoom,
            tries=tries,
            device="cpu",
            warn=self.warnings.append,
        )
        self.source = generated_pairs(photos, noise, patch=patch, seed=seed)

    def training(self, steps=60):
        """Brightness, 0-255, of every image that training draws."""
        rng = generator()
        batches = [self.source.draw(step, 4, rng) for step in range(1, steps + 1)]
        return {round(255 * value) for batch in batches for value in batch.noisy.unique().tolist()}

    def validation(self):
        """The same of the held-out images."""
        return {round(255 * value) for value in self.source.validation(40).noisy.unique().tolist()}


def write_plain(folder, count=8):
    for number in range(count):
        write_image(folder / f"{chr(97 + number)}.png", plain(30 * number))
    return folder


# Held-out photos


def test_no_held_out_photo_is_ever_drawn(tmp_path):
    opened = Opened(write_plain(tmp_path))

    held_out, drawn = opened.validation(), opened.training()

    assert len(held_out) == opened.held_out == 2
    assert not held_out & drawn
    assert held_out | drawn == {30 * number for number in range(8)}


def test_the_seed_draws_the_held_out_photos(tmp_path):
    write_plain(tmp_path)

    held_out = [Opened(tmp_path, seed=seed).validation() for seed in (0, 0, 1, 2, 3, 4)]

    assert held_out[0] == held_out[1]
    assert len(set(map(frozenset, held_out))) > 3


@pytest.mark.parametrize("seed", range(4))
def test_shots_of_one_scene_are_on_one_side(tmp_path, seed):
    names = ("cat_1", "cat_2", "cat_3", "dog_1", "dog_2", "fish_clean", "fish_noisy", "owl", "IMG_7", "IMG_9")
    for number, name in enumerate(names):
        write_image(tmp_path / f"{name}.png", plain(10 * number))
    write_image(tmp_path / "owl.bmp", plain(200))

    opened = Opened(tmp_path, seed=seed)
    held_out, drawn = opened.validation(), opened.training()

    assert held_out | drawn == {*range(0, 100, 10), 200}
    for scene in ({0, 10, 20}, {30, 40}, {50, 60}, {70, 200}):
        assert not (scene & held_out and scene & drawn)


def test_photos_with_numbers_for_names_are_scenes_of_their_own(tmp_path):
    for number in range(4):
        write_image(tmp_path / f"{number}.png", plain(50 * number))
    write_image(tmp_path / "cover.png", plain(250))

    assert Opened(tmp_path).held_out == 1


def test_pages_of_a_file_are_on_one_side(tmp_path):
    for number in range(3):
        pages = [plain(50 * number + 5 * page).numpy() for page in range(4)]
        tifffile.imwrite(tmp_path / f"{'abc'[number]}.tif", np.stack(pages), photometric="rgb")

    opened = Opened(tmp_path)

    assert opened.reader.used == 12
    assert opened.held_out == 4
    assert len({value // 50 for value in opened.validation()}) == 1
    assert len({value // 50 for value in opened.training()}) == 2


def test_several_folders_of_photos_are_one(tmp_path):
    for number, folder in enumerate(("a", "b", "b")):
        write_image(tmp_path / folder / f"{number}.png", plain(50 * number))

    opened = Opened(tmp_path / "a", tmp_path / "b")

    assert opened.training() | opened.validation() == {0, 50, 100}


def test_a_single_photo_is_too_few(tmp_path):
    write_image(tmp_path / "only.png", plain(1))

    with pytest.raises(ValueError, match="at least 2 photos are needed, 1 of them for validation; found 1"):
        Opened(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path.name}: no images"):
        Opened(tmp_path)


# Photos that cannot be read


def test_an_unreadable_photo_is_named_and_left_out(tmp_path):
    write_plain(tmp_path)
    (tmp_path / "text.jpg").write_text("this is no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    write_image(tmp_path / "tiny.png", plain(1, 15, 40))
    (tmp_path / "empty.png").touch()

    opened = Opened(tmp_path)

    assert opened.validation() | opened.training() == {30 * number for number in range(8)}
    assert opened.reader.used == 8
    assert sorted(file.name for file, _ in opened.reader.left_out) == [
        "cut.png",
        "empty.png",
        "text.jpg",
        "tiny.png",
    ]
    assert all(
        any(f"left out {tmp_path / name}: " in text for text in opened.warnings)
        for name in ("cut.png", "text.jpg")
    )
    assert f"left out {tmp_path / 'tiny.png'}: 40 x 15 pixels; at least 16 x 16 are needed" in opened.warnings


def test_only_readable_photos_are_held_out(tmp_path):
    write_plain(tmp_path, 2)
    for number in range(30):
        (tmp_path / f"broken{chr(97 + number)}.png").write_bytes(b"no image")

    assert {Opened(tmp_path, seed=seed).held_out for seed in range(3)} == {1}


def test_a_folder_without_a_readable_photo_is_refused(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("this is no image")

    with pytest.raises(ValueError, match=r"none of the 2 photos can be read; for example .*\.png: "):
        Opened(tmp_path)


def test_too_few_readable_photos_are_refused(tmp_path):
    write_image(tmp_path / "a.png", plain(1))
    (tmp_path / "b.png").write_text("this is no image")

    with pytest.raises(ValueError, match=r"at least 2 photos .*; 1 of 2 cannot be read, for example .*b.png: "):
        Opened(tmp_path)


def test_pages_before_a_broken_one_are_used(tmp_path):
    write_plain(tmp_path, 2)
    pages = np.stack([random_pixels(40, 40, seed, 1).numpy()[..., 0] for seed in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(tmp_path / "stack.tif") as file:
        offset = file.pages[2].dataoffsets[0]
    data = bytearray((tmp_path / "stack.tif").read_bytes())
    data[offset : offset + 8] = b"\xff" * 8
    (tmp_path / "stack.tif").write_bytes(data)

    opened = Opened(tmp_path)

    assert opened.reader.used == 4
    assert opened.warnings[0].endswith("; the 2 images before that are used")


# The range


def cell(side=40):
    """A soft disc on a dark ground, float64 (side, side) from 0 to 1."""
    axis = np.arange(side) - side / 2
    return np.exp(-(axis[:, None] ** 2 + axis**2) / 100)


RANGES = {
    "counts": (684 * cell()).astype(np.uint16),
    "counts with an offset": (30000 + 684 * cell()).astype(np.uint16),
    "signed": (684 * cell() - 300).astype(np.int16),
    "floats": (684 * cell()).astype(np.float32),
    "small floats": (1e-6 * cell()).astype(np.float32),
    "negative floats": (-5 - 684 * cell()[::-1]).astype(np.float32),
}


@pytest.mark.parametrize("name", RANGES)
def test_samples_of_any_range_train_on_the_networks_range(tmp_path, name):
    for letter in "abc":
        tifffile.imwrite(tmp_path / f"{letter}.tif", RANGES[name])

    noisy = Opened(tmp_path, patch=40).source.draw(1, 4, generator()).noisy

    low, high = noisy.min().item(), noisy.max().item()
    assert -0.05 < low < 0.05
    assert 0.95 < high < 1.05
    # Neither cut to 8 bits nor clipped.
    assert len(noisy[0, ..., 0].unique()) > 100


@pytest.mark.parametrize("name", RANGES)
def test_training_and_serving_normalise_alike(tmp_path, name):
    tifffile.imwrite(tmp_path / "a.tif", RANGES[name])
    samples = decode((tmp_path / "a.tif").read_bytes()).samples

    serving = prepare(samples, estimate_noise(samples)).normalisation

    # Serving takes counts of 0-684 as a dark photograph. A factor makes no difference to the network.
    expected = serving.forward(samples) if serving else samples.float() / samples.float().max()
    torch.testing.assert_close(normalised(samples)[..., :1] / 255, expected, atol=0.02, rtol=0)


def test_photographs_keep_their_range():
    bytes_ = random_pixels(30, 30)
    words = torch.from_numpy(np.random.default_rng(0).integers(65536, size=(30, 30, 3), dtype=np.uint16))

    assert torch.equal(normalised(bytes_), bytes_)
    torch.testing.assert_close(normalised(words), words.float() / 257, atol=0.6, rtol=0)
    torch.testing.assert_close(normalised(words.float() / 65535), normalised(words))


def test_an_even_image_of_other_units_stays_on_the_range():
    assert normalised(torch.full((20, 20, 1), 500.0)).eq(255).all()


def test_the_only_channel_with_an_image_is_grey():
    dye = torch.zeros(30, 30, 3, dtype=torch.uint8)
    dye[..., 1] = random_pixels(30, 30, channels=1)[..., 0]

    assert torch.equal(normalised(dye), dye[..., 1:2].expand(-1, -1, 3))


def test_photos_of_all_ranges_train_together(tmp_path):
    for number, samples in enumerate(RANGES.values()):
        tifffile.imwrite(tmp_path / f"{chr(97 + number)}.tif", samples)
    Image.fromarray(random_pixels(40, 40).numpy()).save(tmp_path / "photo.jpg")

    opened = Opened(tmp_path, patch=40)

    assert opened.reader.used == len(RANGES) + 1
    assert not opened.warnings
    assert opened.source.draw(1, 64, generator()).noisy.isfinite().all()


# The size


def test_a_small_photo_is_continued_by_its_mirror_image():
    image = torch.arange(12).view(3, 4, 1)

    large = mirrored(image, 8)[..., 0]

    assert large[0].tolist() == [0, 1, 2, 3, 2, 1, 0, 1]
    assert large[:, 0].tolist() == [0, 4, 8, 4, 0, 4, 8, 4]
    assert torch.equal(mirrored(image, 3), image)


def test_photos_smaller_than_a_patch_train_too(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", random_pixels(20, 24, ord(name)))

    opened = Opened(tmp_path, noise=RandomPixelNoise(3, 3), patch=16)

    assert opened.source.draw(1, 2, generator()).noisy.shape == (2, 16, 16, 3)


# Batches


def test_a_batch_has_its_shape_its_type_and_its_weights(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", random_pixels(30, 30))

    batch = Opened(tmp_path, noise=GaussianNoise(5, 50)).source.draw(1, 6, generator())

    assert batch.noisy.shape == batch.target.shape == (6, 8, 8, 3)
    assert {part.dtype for part in batch[:3]} == {torch.float32}
    assert batch.noisy.is_contiguous()
    assert batch.weight.shape == (6,)
    assert len(batch.weight.unique()) == 6


def test_validation_is_clean_and_the_same_each_time(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", random_pixels(30, 30))
    source = Opened(tmp_path, noise=GaussianNoise(25, 25)).source

    first, second = source.validation(5), source.validation(5)

    assert first.reference_noise == 0
    assert torch.equal(first.noisy, second.noisy)
    assert (first.reference * 255 - (first.reference * 255).round()).abs().max() < 1e-4
    assert (first.noisy - first.reference).std().item() == pytest.approx(25 / 255, rel=0.15)


@pytest.mark.parametrize("noise", [GaussianNoise(10, 40), RandomPixelNoise(2, 3)])
def test_a_step_draws_the_same_batch_from_the_same_state(tmp_path, noise):
    for number in range(3):
        write_image(tmp_path / f"{number}.png", random_pixels(40, 50, number))

    first, second = (
        Opened(tmp_path, noise=noise, zoom=0.6, tries=3).source.draw(9, 4, generator(5)) for _ in range(2)
    )

    assert all(map(torch.equal, first[:3], second[:3]))


def test_random_pixel_views_come_from_patches_of_their_scale(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", random_pixels(40, 40))

    source = Opened(tmp_path, noise=RandomPixelNoise(5, 5)).source

    assert source.draw(1, 2, generator()).noisy.shape == (2, 8, 8, 3)
    assert source.validation(2).noisy.shape == (2, 8, 8, 3)
