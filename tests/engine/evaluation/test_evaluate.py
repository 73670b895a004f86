import pytest
import torch

from engine.evaluation.benchmarks import Trial
from engine.evaluation.evaluate import (
    Score,
    denoise_measured,
    denoise_pairs,
    denoise_pairs_by,
    evaluate_pairs,
    largest_change,
    mean_quality,
    rows_of,
)
from engine.evaluation.measured import Measurement
from engine.evaluation.metrics import psnr, ssim
from engine.evaluation.samples import gaussian_pairs, gaussian_samples
from engine.inference.denoise import denoise_image
from engine.inference.model_selection import models_of
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.pixels import generator, random_pixels, write_image


def unchanging():
    """A network that, before training, gives back its input."""
    return build_network(UNetConfig((8,), (1,)), generator())


def test_quality_is_a_mean_and_the_output_is_clipped():
    clean = torch.ones(32, 32, 3)
    pairs = [(clean + 0.1, clean), (clean - 0.1, clean), (clean[:16, :16] - 0.01, clean[:16, :16])]

    quality = evaluate_pairs(unchanging(), pairs)

    assert quality.images == 3
    assert quality.noisy_psnr == pytest.approx((20 + 20 + 40) / 3, abs=1e-3)
    assert quality.psnr == pytest.approx((100 + 20 + 40) / 3, abs=1e-3)
    assert quality.ssim > quality.noisy_ssim
    assert quality.megapixels_per_second > 0


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (40, 24), (33, 47)])
def test_images_in_a_batch_score_as_single_ones(size):
    net = build_network(AutoencoderConfig(8, "text"), generator())
    pairs = [
        (torch.rand(*size, 3, generator=generator(n)), torch.rand(*size, 3, generator=generator(9 + n)))
        for n in range(5)
    ]

    quality = evaluate_pairs(net, pairs)

    each = [psnr(denoise_image(net, noisy).clamp(0, 1), clean) for noisy, clean in pairs]
    assert quality.psnr == pytest.approx(sum(each) / 5, abs=1e-4)


def test_results_come_in_order_with_their_own_scores():
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


def test_by_a_choice_each_image_has_its_network():
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
    assert names == ["photo-gaussian", "photo-grey", "photo-grey", "photo-grey"]
    for name, pair, result in zip(names, pairs, results, strict=True):
        [alone] = denoise_pairs(nets[name], [pair])
        # An even image is certainly clean, so it is not changed.
        assert torch.equal(result.denoised, clean if pair[0] is clean else alone.denoised)
    quality = mean_quality([result.score for result in results])
    assert list(quality.chosen.items()) == [("photo-grey", 3), ("photo-gaussian", 1)]


def test_a_mean_is_over_images_and_a_speed_over_pixels():
    quality = mean_quality([Score(20, 0.4, 30, 0.8, 1_000_000, 1.0), Score(22, 0.6, 33, 0.9, 3_000_000, 1.0)])

    assert (quality.images, quality.noisy_psnr, quality.psnr) == (2, 21, 31.5)
    assert (quality.noisy_ssim, quality.ssim) == pytest.approx((0.5, 0.85))
    assert quality.megapixels_per_second == 2
    assert quality.chosen == {}


def test_the_largest_change_is_that_of_one_image(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", random_pixels(32, 32, ord(name)))
    one, other = unchanging(), build_network(AutoencoderConfig(8, "text"), generator())
    samples = gaussian_samples(tmp_path, 25)

    change = largest_change(one, other, samples)

    each = [
        [psnr(denoise_image(net, noisy).clamp(0, 1), clean) for net in (one, other)]
        for noisy, clean in gaussian_pairs(tmp_path, 25)
    ]
    assert change == pytest.approx(max(abs(a - b) for a, b in each))
    assert largest_change(one, one, samples) == 0


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="no pairs to measure on"):
        evaluate_pairs(unchanging(), [])


def test_a_trial_with_a_subset_has_two_rows():
    scores = [Score(20.0, 0.5, psnr, 0.9, 100, 1.0) for psnr in (30, 32, 34)]

    rows = rows_of(Trial("set", "white 25", (), 25.0, ("even", lambda index: index % 2 == 0)), scores)

    assert [(row.set, row.noise, row.level, row.quality.images) for row in rows] == [
        ("set", "white 25", 25.0, 3),
        ("even", "white 25", 25.0, 2),
    ]
    assert [row.quality.psnr for row in rows] == [32, 32]


def test_rows_of_no_images_are_refused():
    with pytest.raises(ValueError, match="no pairs to measure on"):
        rows_of(Trial("set", "none", ()), [])


# Measured images


def test_measured_images_are_scored_in_their_own_units():
    truth = 100 + torch.arange(400.0).view(20, 20)
    noisy = (truth + 40).to(torch.uint16)
    given = []

    def denoise(samples):
        given.append(samples)
        return (samples.float() - 36).to(torch.uint16), "grey"

    [result] = denoise_measured(denoise, [Measurement(noisy, truth, 400, 100, ("rmse", "total"))])

    assert given[0] is noisy
    score = result.score
    assert (score.noisy_psnr, score.psnr) == pytest.approx((20, 40), abs=1e-4)
    assert (score.chosen, score.pixels) == ("grey", 400)
    assert score.figures == pytest.approx({"rmse": 0.01, "total": 203.5 / 199.5})
    assert result.denoised.shape == (20, 20, 3)
    assert result.denoised.max() == 1


def test_figures_are_means_over_images():
    scores = [Score(20, 1, 30, 1, 1, 1.0, None, {"rmse": rmse}) for rmse in (0.1, 0.3)]

    assert mean_quality(scores).figures == pytest.approx({"rmse": 0.2})
