import math

import pytest
import torch

from engine.adaptation.quality import error_map, fit_levels, gain, improvement, scene_error
from tests.support.pixels import generator

LIMITS = (0.0, 1.0)


def scene(seed, side=48):
    """Discs of different size and brightness: (side, side, 1) on [0, 1]."""
    rng = generator(seed)
    rows, columns = torch.arange(side).view(-1, 1), torch.arange(side)
    clean = torch.full((side, side), 0.1)
    for _ in range(6):
        row, column, size, light = torch.rand(4, generator=rng).tolist()
        inside = (rows - side * row) ** 2 + (columns - side * column) ** 2 < (3 + 9 * size) ** 2
        clean = clean.where(~inside, torch.tensor(0.2 + 0.7 * light))
    return clean.unsqueeze(2)


def shots_of(clean, count, sigmas, seed, gains=(1.0, 1.0, 1.0), offsets=(0.0, 0.0, 0.0)):
    rng = generator(seed)
    noise = [sigma * torch.randn(clean.shape, generator=rng) for sigma in sigmas]
    return [gains[n] * clean + offsets[n] + noise[n] for n in range(count)]


def smooth(image, reach=1):
    """A mean of the pixels around: a denoiser that blurs."""
    x = image.permute(2, 0, 1).unsqueeze(0)
    x = torch.nn.functional.pad(x, (reach,) * 4, mode="reflect")
    return torch.nn.functional.avg_pool2d(x, 2 * reach + 1, 1).squeeze(0).permute(1, 2, 0)


def decibels(ratio):
    return 10 * math.log10(ratio)


def measured(seeds, count, sigmas, gains=(1, 1, 1)):
    """The scenes' errors, and the true mean squared errors of the shots, of a good and of a poor denoiser."""
    errors, truth = [], torch.zeros(3, dtype=torch.float64)
    for seed in seeds:
        clean = scene(seed)
        shots = shots_of(clean, count, sigmas, 1000 + seed, gains)
        good, poor = [smooth(shot) for shot in shots], [smooth(shot, 3) for shot in shots]
        errors.append(scene_error(shots, [poor, good], LIMITS))
        for number, images in enumerate((shots, good, poor)):
            # In the unit of the first shot, as the estimate is.
            truth[number] += sum(
                ((image / gains[n] - clean) ** 2).double().mean() for n, image in enumerate(images)
            )
    return errors, truth.tolist()


@pytest.mark.parametrize(("count", "tolerance"), [(3, 0.1), (2, 0.25)])
@pytest.mark.parametrize("sigmas", [(0.1, 0.1, 0.1), (0.05, 0.15, 0.1)])
@pytest.mark.parametrize("gains", [(1, 1, 1), (1, 1.2, 0.9)])
def test_the_gain_is_estimated_without_a_clean_image(count, tolerance, sigmas, gains):
    errors, (noisy, good, poor) = measured(range(40), count, sigmas, gains)

    assert gain(errors, 1).value == pytest.approx(decibels(noisy / good), abs=tolerance)
    assert gain(errors, 0).value == pytest.approx(decibels(noisy / poor), abs=tolerance)
    assert improvement(errors).value == pytest.approx(decibels(poor / good), abs=tolerance)


def test_the_error_of_two_shots_needs_no_equal_noise():
    clean = scene(0, 256)
    shots = shots_of(clean, 2, (0.02, 0.2), 5)

    estimated = float(error_map(shots, shots).mean())

    assert estimated == pytest.approx((0.02**2 + 0.2**2) / 2, rel=0.02)


def test_a_perfect_denoiser_has_no_error():
    clean = scene(0, 256)
    shots = shots_of(clean, 3, (0.1, 0.1, 0.1), 5)

    assert float(error_map([clean] * 3, shots).mean()) == pytest.approx(0, abs=1e-4)


def test_gain_and_offset_between_shots_are_fitted():
    clean = scene(0).repeat(5, 5, 1)
    shots = shots_of(clean, 3, (0.1, 0.1, 0.1), 5, (1, 1.2, 0.8), (0, 0.3, -5))

    levels = fit_levels(shots, [smooth(shot) for shot in shots])

    assert levels[0] == (1, 0)
    assert levels[1] == pytest.approx((1.2, 0.3), abs=0.01)
    assert levels[2] == pytest.approx((0.8, -5), abs=0.01)


@pytest.mark.parametrize("count", [2, 3])
def test_the_interval_holds_the_truth_as_often_as_it_says(count):
    _, (noisy, good, poor) = measured(range(5000, 5600), count, (0.1, 0.1, 0.1))
    held = {"gain": 0, "improvement": 0}
    sets = 100
    for number in range(sets):
        errors, _ = measured(range(8 * number, 8 * number + 8), count, (0.1, 0.1, 0.1))
        for name, estimate, truth in (
            ("gain", gain(errors, 1), decibels(noisy / good)),
            ("improvement", improvement(errors), decibels(poor / good)),
        ):
            held[name] += estimate.low <= truth <= estimate.high

    assert all(0.9 * sets <= each <= 0.99 * sets for each in held.values())


def test_a_third_of_the_brightness_is_judged_apart():
    clean = torch.cat((torch.full((64, 64, 1), 0.1), torch.full((64, 64, 1), 0.9)))
    shots = shots_of(clean, 2, (0.1, 0.1), 5)
    # The second denoiser errs in the bright part alone.
    wrong = [clean + torch.where(clean > 0.5, 0.2, 0.0) for _ in shots]

    error = scene_error(shots, [[clean, clean], wrong], LIMITS)

    assert error.counts == (0.5, 0, 0.5)
    assert error.denoised[1][0] == pytest.approx(0, abs=5e-4)
    assert error.denoised[1][2] == pytest.approx(0.04, rel=0.1)
    assert error.bias == pytest.approx((0, 0.1), abs=0.01)


def test_pixels_that_are_not_usable_do_not_count():
    clean = torch.full((64, 64, 1), 0.5)
    shots = shots_of(clean, 2, (0.1, 0.1), 5)
    shots[1][:32] += 5
    usable = torch.zeros(64, 64, dtype=torch.bool)
    usable[32:] = True

    error = scene_error(shots, [[clean, clean]], LIMITS, usable)

    assert error.whole(error.noisy) == pytest.approx(0.01, rel=0.1)
    assert error.counts == (0, 1, 0)


def test_one_scene_has_no_interval():
    errors, _ = measured(range(1), 2, (0.1, 0.1))

    assert gain(errors).low == -math.inf


@pytest.mark.parametrize(("shots", "outputs"), [(1, 1), (3, 2)])
def test_too_few_shots_or_outputs_are_refused(shots, outputs):
    image = torch.zeros(4, 4, 1)

    with pytest.raises(ValueError, match=f"got {shots} shots and {outputs} outputs"):
        error_map([image] * outputs, [image] * shots)
