import pickle

import pytest
import torch

from engine.evaluation.samples import (
    gaussian_pairs,
    gaussian_samples,
    recorded_samples,
    with_noise,
)
from tests.support.pixels import random_pixels, write_image


def recorded_pairs(path):
    """The pairs, opened one by one. What is wrong with the path is raised at once."""
    return (sample.open() for sample in recorded_samples(path))


class Malicious:
    def __reduce__(self):
        return print, ("run",)


def test_the_noise_of_an_image_depends_on_its_name_alone(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "two" / f"{name}.png", random_pixels(32, 32))
    write_image(tmp_path / "one" / "b.png", random_pixels(32, 32))

    (first, clean), (second, _) = gaussian_pairs(tmp_path / "two", 25)
    [(alone, _)] = gaussian_pairs(tmp_path / "one", 25)

    assert torch.equal(second, alone)
    assert not torch.equal(first, second)
    assert torch.equal(clean, random_pixels(32, 32) / 255)


def test_samples_carry_the_names_of_their_files(tmp_path):
    for name in ("b", "a"):
        write_image(tmp_path / "clean" / f"{name}.png", random_pixels(12, 12))
        write_image(tmp_path / "pairs" / f"{name}_real.png", random_pixels(12, 12))
        write_image(tmp_path / "pairs" / f"{name}_mean.png", random_pixels(12, 12))

    assert [sample.name for sample in gaussian_samples(tmp_path / "clean", 15)] == ["a", "b"]
    assert [sample.name for sample in recorded_samples(tmp_path / "pairs")] == ["a", "b"]


def test_one_noise_for_all_channels_is_equal_in_each():
    noise = with_noise(torch.zeros(64, 64, 3), "a.png", 25, channels=1)

    assert torch.equal(noise[..., 0], noise[..., 2])
    assert float(noise.std() * 255) == pytest.approx(25, rel=0.05)


def test_gaussian_noise_has_its_level_and_is_not_clipped(tmp_path):
    write_image(tmp_path / "white.png", torch.full((64, 64, 3), 255, dtype=torch.uint8))

    [(noisy, clean)] = gaussian_pairs(tmp_path, 25)

    noise = (noisy - clean) * 255
    assert abs(float(noise.mean())) < 1
    assert float(noise.std()) == pytest.approx(25, rel=0.03)
    assert noisy.max() > 1


def test_only_the_first_images_are_taken_up_to_the_limit(tmp_path):
    for name in "abc":
        write_image(tmp_path / f"{name}.png", random_pixels(12, 12))

    assert len(list(gaussian_pairs(tmp_path, 15, limit=2))) == 2


def test_a_negative_sigma_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sigma must be at least 0; got -1"):
        gaussian_pairs(tmp_path, -1)


def test_a_pkl_is_read_as_noisy_and_clean_with_channels_last(tmp_path):
    noisy, clean = (torch.stack([random_pixels(32, 32, n) for n in seeds]) for seeds in ((1, 2), (3, 4)))
    torch.save((noisy.permute(0, 3, 1, 2), clean.permute(0, 3, 1, 2)), tmp_path / "val.pkl")

    pairs = list(recorded_pairs(tmp_path / "val.pkl"))

    assert len(pairs) == 2
    torch.testing.assert_close(pairs[1][0], noisy[1] / 255)
    torch.testing.assert_close(pairs[1][1], clean[1] / 255)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Malicious(), protocol=2))

    with pytest.raises(ValueError, match=r"bad\.pkl"):
        recorded_pairs(tmp_path / "bad.pkl")


@pytest.mark.parametrize(
    ("noisy", "clean"),
    [("x_noisy.png", "x_clean.png"), ("x_real.PNG", "x_mean.PNG"), ("noisy/x.png", "clean/x.png")],
)
def test_pairs_in_a_folder_are_found_by_their_names(tmp_path, noisy, clean):
    write_image(tmp_path / noisy, random_pixels(12, 12, 1))
    write_image(tmp_path / clean, random_pixels(12, 12, 2))

    [pair] = recorded_pairs(tmp_path)

    torch.testing.assert_close(pair[0], random_pixels(12, 12, 1) / 255)
    torch.testing.assert_close(pair[1], random_pixels(12, 12, 2) / 255)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x_noisy.png"], "no _clean image for x_noisy"),
        (["x.png", "y.png"], "no pairs found; expected NAME_noisy with NAME_clean"),
        (["noisy/x.png"], "has a folder noisy, but no folder clean"),
        (["noisy/x.png", "noisy/y.png", "clean/x.png"], "only one of its folders noisy and clean has y"),
    ],
)
def test_a_folder_with_half_a_pair_is_refused(tmp_path, names, message):
    for name in names:
        write_image(tmp_path / name, random_pixels(12, 12))

    with pytest.raises(ValueError, match=message):
        recorded_pairs(tmp_path)


def test_a_pair_of_two_sizes_is_refused_with_both(tmp_path):
    write_image(tmp_path / "x_noisy.png", random_pixels(12, 14))
    write_image(tmp_path / "x_clean.png", random_pixels(12, 12))

    with pytest.raises(ValueError, match=r"x_noisy\.png and x_clean\.png differ in size: 14 x 12 and 12 x 12"):
        list(recorded_pairs(tmp_path))


def test_a_path_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a folder or a file of pairs"):
        recorded_pairs(tmp_path / "nowhere")
