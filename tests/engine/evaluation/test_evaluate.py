import pickle

import pytest
import torch
from PIL import Image

from engine.evaluation.evaluate import (
    Score,
    denoise_pairs,
    denoise_pairs_by,
    evaluate_pairs,
    gaussian_pairs,
    gaussian_samples,
    largest_change,
    mean_quality,
    psnr,
    read_pairs,
    recorded_samples,
    ssim,
    with_noise,
)
from engine.inference.denoise import denoise_image
from engine.inference.model_selection import models_of
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.unet import UNetConfig


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def image(height, width, seed=0):
    return torch.randint(256, (height, width, 3), generator=generator(seed), dtype=torch.uint8)


def write(path, pixels):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)


def unchanging():
    """A network that, before training, gives back its input."""
    return build_network(UNetConfig((8,), (1,)), generator())


class Malicious:
    def __reduce__(self):
        return print, ("run",)


def test_psnr_of_an_error_of_a_tenth_everywhere_is_20_db():
    clean = torch.rand(8, 8, 3, generator=generator()) * 0.9

    assert psnr(clean + 0.1, clean) == pytest.approx(20, abs=1e-4)


def test_psnr_of_equal_images_is_a_number_and_not_infinity():
    clean = torch.rand(8, 8, 3)

    assert psnr(clean, clean) == 100


def test_images_of_two_shapes_are_not_compared():
    with pytest.raises(ValueError, match=r"one shape.*\(1, 8, 8, 3\) and \(1, 8, 9, 3\)"):
        psnr(torch.zeros(8, 8, 3), torch.zeros(8, 9, 3))


def test_ssim_of_equal_images_is_one():
    clean = torch.rand(16, 16, 3, generator=generator())

    assert ssim(clean, clean) == pytest.approx(1)


def test_ssim_of_plain_images_compares_their_brightness():
    dark, bright = torch.full((12, 12, 3), 0.2), torch.full((12, 12, 3), 0.6)

    assert ssim(dark, bright) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-6)


def test_ssim_agrees_with_its_definition_window_by_window():
    a = torch.rand(13, 14, 3, generator=generator(1)).double()
    b = (a + 0.2 * torch.randn(a.shape, generator=generator(2))).double()
    place = torch.arange(11).double() - 5
    weight = torch.exp(-(place[:, None] ** 2 + place**2) / 4.5)[..., None]
    weight = weight / weight.sum()
    scores = []
    for y in range(3):
        for x in range(4):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (weight * p).sum((0, 1)), (weight * q).sum((0, 1))
            vp, vq = (weight * (p - mp) ** 2).sum((0, 1)), (weight * (q - mq) ** 2).sum((0, 1))
            cov = (weight * (p - mp) * (q - mq)).sum((0, 1))
            scores.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))

    assert ssim(a, b) == pytest.approx(float(torch.stack(scores).mean()), abs=1e-9)


def test_ssim_refuses_an_image_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11 x 11 pixels; got 20 x 10"):
        ssim(torch.zeros(10, 20, 3), torch.zeros(10, 20, 3))


def test_quality_is_the_mean_over_images_and_the_output_is_clipped():
    clean = torch.ones(32, 32, 3)
    pairs = [(clean + 0.1, clean), (clean - 0.1, clean), (clean[:16, :16] - 0.01, clean[:16, :16])]

    quality = evaluate_pairs(unchanging(), pairs)

    assert quality.images == 3
    assert quality.noisy_psnr == pytest.approx((20 + 20 + 40) / 3, abs=1e-3)
    assert quality.psnr == pytest.approx((100 + 20 + 40) / 3, abs=1e-3)
    assert quality.ssim > quality.noisy_ssim
    assert quality.megapixels_per_second > 0


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (40, 24), (33, 47)])
def test_images_measured_together_score_as_each_denoised_by_itself(size):
    net = build_network(AutoencoderConfig(8, "text"), generator())
    pairs = [
        (torch.rand(*size, 3, generator=generator(n)), torch.rand(*size, 3, generator=generator(9 + n)))
        for n in range(5)
    ]

    quality = evaluate_pairs(net, pairs)

    each = [psnr(denoise_image(net, noisy).clamp(0, 1), clean) for noisy, clean in pairs]
    assert quality.psnr == pytest.approx(sum(each) / 5, abs=1e-4)


def test_each_image_comes_back_with_its_own_scores_in_the_order_given():
    net = build_network(AutoencoderConfig(8, "text"), generator())
    sizes = [(32, 32), (32, 32), (40, 33), (32, 32)]
    pairs = [(torch.rand(*size, 3), torch.rand(*size, 3)) for size in sizes]

    results = list(denoise_pairs(net, pairs))

    assert len(results) == 4
    for result, (noisy, clean) in zip(results, pairs, strict=True):
        denoised = denoise_image(net, noisy).clamp(0, 1)
        assert torch.equal(result.noisy, noisy)
        assert torch.equal(result.clean, clean)
        torch.testing.assert_close(result.denoised, denoised, rtol=0, atol=1e-5)
        assert result.score.noisy_psnr == pytest.approx(psnr(noisy, clean))
        assert result.score.psnr == pytest.approx(psnr(result.denoised, clean))
        assert result.score.ssim == pytest.approx(ssim(result.denoised, clean))
        assert result.score.pixels == noisy.shape[0] * noisy.shape[1]


def test_by_a_choice_each_image_has_its_network_and_the_name_of_it():
    nets = {
        name: build_network(AutoencoderConfig(8, "text"), generator(n))
        for n, name in enumerate(models_of("auto"))
    }
    clean = torch.full((64, 64, 3), 0.5)
    colour = clean + 0.1 * torch.randn(clean.shape, generator=generator())
    grey = colour[..., :1].expand(-1, -1, 3).contiguous()
    pairs = [(colour, clean), (grey, clean), (clean, clean), (grey, clean)]

    results = list(denoise_pairs_by("auto", nets, pairs))

    names = [result.score.chosen for result in results]
    assert names == ["photo-gaussian", "photo-grey", "photo", "photo-grey"]
    for name, pair, result in zip(names, pairs, results, strict=True):
        [alone] = denoise_pairs(nets[name], [pair])
        assert torch.equal(result.denoised, alone.denoised)
    quality = mean_quality([result.score for result in results])
    assert list(quality.chosen.items()) == [("photo-grey", 2), ("photo-gaussian", 1), ("photo", 1)]


def test_a_mean_is_over_images_and_a_speed_over_pixels_and_seconds():
    quality = mean_quality([Score(20, 0.4, 30, 0.8, 1_000_000, 1.0), Score(22, 0.6, 33, 0.9, 3_000_000, 1.0)])

    assert (quality.images, quality.noisy_psnr, quality.psnr) == (2, 21, 31.5)
    assert (quality.noisy_ssim, quality.ssim) == pytest.approx((0.5, 0.85))
    assert quality.megapixels_per_second == 2
    assert quality.chosen == {}


def test_the_largest_change_is_that_of_the_one_image_that_changes_most(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.png", image(32, 32, ord(name)))
    one, other = unchanging(), build_network(AutoencoderConfig(8, "text"), generator())
    samples = gaussian_samples(tmp_path, 25)

    change = largest_change(one, other, samples)

    each = [
        [psnr(denoise_image(net, noisy).clamp(0, 1), clean) for net in (one, other)]
        for noisy, clean in gaussian_pairs(tmp_path, 25)
    ]
    assert change == pytest.approx(max(abs(a - b) for a, b in each))
    assert largest_change(one, one, samples) == 0


def test_no_pairs_is_an_error_and_no_mean_of_nothing():
    with pytest.raises(ValueError, match="no pairs to measure on"):
        evaluate_pairs(unchanging(), [])


def test_the_noise_of_an_image_depends_on_its_name_and_not_on_its_neighbours(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "two" / f"{name}.png", image(32, 32))
    write(tmp_path / "one" / "b.png", image(32, 32))

    (first, clean), (second, _) = gaussian_pairs(tmp_path / "two", 25)
    [(alone, _)] = gaussian_pairs(tmp_path / "one", 25)

    assert torch.equal(second, alone)
    assert not torch.equal(first, second)
    assert torch.equal(clean, image(32, 32) / 255)


def test_samples_carry_the_names_of_their_files(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / "clean" / f"{name}.png", image(12, 12))
        write(tmp_path / "pairs" / f"{name}_real.png", image(12, 12))
        write(tmp_path / "pairs" / f"{name}_mean.png", image(12, 12))

    assert [sample.name for sample in gaussian_samples(tmp_path / "clean", 15)] == ["a", "b"]
    assert [sample.name for sample in recorded_samples(tmp_path / "pairs")] == ["a", "b"]


def test_one_noise_for_all_channels_is_equal_in_each():
    noise = with_noise(torch.zeros(64, 64, 3), "a.png", 25, channels=1)

    assert torch.equal(noise[..., 0], noise[..., 2])
    assert float(noise.std() * 255) == pytest.approx(25, rel=0.05)


def test_gaussian_noise_has_its_level_and_is_not_clipped(tmp_path):
    write(tmp_path / "white.png", torch.full((64, 64, 3), 255, dtype=torch.uint8))

    [(noisy, clean)] = gaussian_pairs(tmp_path, 25)

    noise = (noisy - clean) * 255
    assert abs(float(noise.mean())) < 1
    assert float(noise.std()) == pytest.approx(25, rel=0.03)
    assert noisy.max() > 1


def test_only_the_first_images_are_taken_up_to_the_limit(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.png", image(12, 12))

    assert len(list(gaussian_pairs(tmp_path, 15, limit=2))) == 2


def test_a_negative_sigma_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sigma is at least 0; got -1"):
        gaussian_pairs(tmp_path, -1)


def test_a_pkl_is_read_as_noisy_and_clean_with_channels_last(tmp_path):
    noisy, clean = (torch.stack([image(32, 32, n) for n in seeds]) for seeds in ((1, 2), (3, 4)))
    torch.save((noisy.permute(0, 3, 1, 2), clean.permute(0, 3, 1, 2)), tmp_path / "val.pkl")

    pairs = list(read_pairs(tmp_path / "val.pkl"))

    assert len(pairs) == 2
    torch.testing.assert_close(pairs[1][0], noisy[1] / 255)
    torch.testing.assert_close(pairs[1][1], clean[1] / 255)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Malicious(), protocol=2))

    with pytest.raises(ValueError, match=r"bad\.pkl"):
        read_pairs(tmp_path / "bad.pkl")


@pytest.mark.parametrize(
    ("noisy", "clean"),
    [("x_noisy.png", "x_clean.png"), ("x_real.PNG", "x_mean.PNG"), ("noisy/x.png", "clean/x.png")],
)
def test_pairs_in_a_folder_are_found_by_their_names(tmp_path, noisy, clean):
    write(tmp_path / noisy, image(12, 12, 1))
    write(tmp_path / clean, image(12, 12, 2))

    [pair] = read_pairs(tmp_path)

    torch.testing.assert_close(pair[0], image(12, 12, 1) / 255)
    torch.testing.assert_close(pair[1], image(12, 12, 2) / 255)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x_noisy.png"], "no _clean image for x_noisy"),
        (["x.png", "y.png"], "no pairs; they are NAME_noisy with NAME_clean"),
        (["noisy/x.png"], "has a folder noisy, but no folder clean"),
        (["noisy/x.png", "noisy/y.png", "clean/x.png"], "only in one of its folders noisy and clean: y"),
    ],
)
def test_a_folder_without_whole_pairs_is_refused_saying_what_is_missing(tmp_path, names, message):
    for name in names:
        write(tmp_path / name, image(12, 12))

    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path)


def test_a_pair_whose_images_differ_in_size_is_refused_with_both_sizes(tmp_path):
    write(tmp_path / "x_noisy.png", image(12, 14))
    write(tmp_path / "x_clean.png", image(12, 12))

    with pytest.raises(ValueError, match=r"x_noisy\.png and x_clean\.png differ in size: 14 x 12 and 12 x 12"):
        list(read_pairs(tmp_path))


def test_a_path_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a folder nor a file of pairs"):
        read_pairs(tmp_path / "nowhere")
