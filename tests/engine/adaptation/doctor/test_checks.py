"""The doctor's single checks, where a simple rule would be misled."""

import math

import pytest
import torch

from engine.adaptation.doctor.clipping import find_clipping
from engine.adaptation.doctor.correlation import lag_correlation, spatial_correlation
from engine.adaptation.doctor.duplicates import digest, equal_share
from engine.adaptation.doctor.findings import least_deviations
from engine.adaptation.doctor.fixed_pattern import find_fixed_pattern
from engine.adaptation.doctor.motion import moving_mask
from engine.adaptation.doctor.noise_levels import noise_levels
from engine.data.jackknife import jackknife_errors, student_factor
from tests.support.bursts import photons, scene, shots, white

SIDE = 128


def test_dark_counts_that_are_equal_by_chance_are_no_duplicate(rng):
    dark = torch.full((SIDE, SIDE), 0.05)
    first, second = (torch.poisson(dark, generator=rng).unsqueeze(2) for _ in range(2))

    assert float((first == second).double().mean()) > 0.9
    assert equal_share(first, second) == 0


def test_black_that_is_equal_is_no_duplicate(rng):
    first, second = (torch.randn(SIDE, SIDE, 1, generator=rng).clamp(min=0.5) for _ in range(2))
    first[:64], second[:64] = 0.5, 0.5

    assert equal_share(first, second) == 0


def test_blocks_that_a_video_repeats_are_counted(rng):
    first, second = ((20 * torch.randn(SIDE, SIDE, 1, generator=rng)).round() for _ in range(2))
    second[32:64] = first[32:64]

    assert equal_share(first, second) == pytest.approx(0.25, abs=0.01)
    assert equal_share(first, first) == 1


def test_digests_differ_for_shots_that_differ(rng):
    first = torch.randn(8, 8, 1, generator=rng)

    assert digest(first) == digest(first.clone())
    assert digest(first) != digest(first + 1)


def test_counts_of_no_photon_are_not_clipped():
    dim = [torch.poisson(2 * scene(1, SIDE), generator=torch.Generator().manual_seed(n)) for n in range(3)]

    assert find_clipping(dim).share == 0


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_share_that_is_clipped_is_judged_from_the_mean(count):
    light = 1.3 * scene(3, SIDE)
    noisy = [(shot - 1000).clamp(0, 255) for shot in shots(light, white(25), count, 3)]

    truth = float((light > 1).double().mean())
    found = find_clipping(noisy).share_high

    assert found == pytest.approx(truth, abs=0.08)
    assert found > 0


def test_correlation_is_seen_beside_noise_that_grows_with_brightness(rng):
    light = 20 + 200 * scene(2, SIDE)
    fresh = torch.randn(SIDE, SIDE, generator=rng).double()
    nothing = torch.zeros(SIDE, SIDE, dtype=torch.bool)

    white_noise = spatial_correlation(light.sqrt() * fresh, light, nothing)
    shared = spatial_correlation(light.sqrt() * (fresh + 0.5 * fresh.roll(1, 0)), light, nothing)

    assert abs(white_noise.value) < 4.5 * white_noise.error
    assert (shared.value, shared.neighbour) == (pytest.approx(0.4, abs=0.03), (1, 0))


@pytest.mark.parametrize(("memory", "first"), [(0.0, 1), (0.5, 5), (0.8, 14)])
def test_the_first_distance_without_correlation_is_found(memory, first, rng):
    made = [torch.randn(SIDE, SIDE, generator=rng).double()]
    for _ in range(23):
        made.append(memory * made[-1] + math.sqrt(1 - memory**2) * torch.randn(SIDE, SIDE, generator=rng))

    found = lag_correlation(made, torch.zeros(SIDE, SIDE, dtype=torch.bool), 1.0)

    assert found.values[0] == pytest.approx(memory, abs=0.06)
    assert abs(found.first - first) <= max(1, 0.3 * first)


def test_noise_that_outlasts_the_shots_is_known_from_a_shot_alone(rng):
    made = [torch.randn(SIDE, SIDE, generator=rng).double()]
    for _ in range(7):
        made.append(0.97 * made[-1] + 0.243 * torch.randn(SIDE, SIDE, generator=rng))

    found = lag_correlation(made, torch.zeros(SIDE, SIDE, dtype=torch.bool), 1.0)

    assert found.values[0] == pytest.approx(0.97, abs=0.02)
    assert found.first is None


def test_structure_that_scenes_share_is_no_fixed_pattern():
    common = scene(5, SIDE, photograph=False)
    means = [shots((number + 1) / 3 * common, white(5), 1, number)[0] for number in range(3)]

    found = find_fixed_pattern(means)

    assert found.deviations < least_deviations(1)


def test_a_pattern_of_columns_is_a_fixed_pattern(rng):
    columns = 4 * torch.randn(SIDE, generator=rng).double()
    means = [shots(scene(number, SIDE), white(10), 1, number)[0] + columns for number in range(5)]

    assert find_fixed_pattern(means).deviations > least_deviations(1)


def test_bright_points_that_are_noisier_have_not_moved():
    for number in range(6):
        first, second = shots(scene(number, SIDE, photograph=False), photons(500), 2, number)

        assert not moving_mask(first - second, (first + second) / 2, 2).any()


def test_the_noise_of_each_of_two_shots_is_measured():
    first = shots(scene(1, SIDE), white(30), 1, 1)[0]
    second = shots(scene(1, SIDE), white(6), 1, 2)[0]

    found = noise_levels(first, second)

    assert found.first**0.5 == pytest.approx(30, rel=0.05)
    assert found.second**0.5 == pytest.approx(6, rel=0.25)
    assert found.second_is_mean
    assert not found.first_is_mean
    assert not noise_levels(first, shots(scene(1, SIDE), white(30), 1, 3)[0]).second_is_mean


def test_where_one_block_decides_the_error_is_large(rng):
    scores = torch.randn(100, 1, generator=rng).double()
    even = torch.ones(100, 1, 1).double()
    one = torch.full((100, 1, 1), 1e-6).double()
    one[0] = 100

    scores = scores - scores.mean(0)

    # The standard error of a mean.
    assert float(jackknife_errors(scores, even)) == pytest.approx(0.1, rel=0.25)
    assert float(jackknife_errors(scores, one)) > 1000


def test_few_blocks_widen_the_error():
    count = torch.tensor([1000.0, 30.0, 8.0])

    # Student's quantile at the normal distribution's 4 standard deviations, over 4; of 30 and 1000 blocks.
    assert student_factor(count)[:2].tolist() == pytest.approx([1.0043, 1.167], abs=0.01)
    assert student_factor(count)[2] > 1.7
