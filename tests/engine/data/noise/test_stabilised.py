import pytest
import torch

from engine.data.noise.gaussian import GaussianNoise
from engine.data.noise.model import error_weight
from engine.data.noise.stabilised import PartlyStabilised, stabilised_views
from tests.support.pixels import generator
from tests.support.scenes import correlation, scene_batch, speckled

SIDE = 128
# A scene with bars of 16 columns, each even: 0.1, 0.2, ... of the range.
BARS = torch.arange(1, SIDE // 16 + 1).repeat_interleave(16) / 10


def bars(count=1, channels=1):
    return BARS.view(1, 1, SIDE, 1).expand(count, SIDE, SIDE, channels).contiguous()


def in_bars(view):
    """(N, bars, numbers of a bar)."""
    return view[..., 0].view(len(view), SIDE, SIDE // 16, 16).transpose(1, 2).flatten(2)


def test_both_views_have_the_same_expected_value():
    noisy, target, _ = stabilised_views(bars(24), 4, None, generator())

    error = (in_bars(noisy) - in_bars(target)).mean(2)
    spread = (in_bars(noisy).var(2) + in_bars(target).var(2)).sqrt() / (16 * SIDE) ** 0.5
    assert (error / spread.clamp(min=1e-6)).abs().max() < 4.5


def test_the_noise_of_the_two_views_is_independent():
    noisy, target, _ = stabilised_views(bars(4), 1, None, generator())

    for view, other in zip(in_bars(noisy).flatten(0, 1), in_bars(target).flatten(0, 1), strict=True):
        assert abs(correlation(view, other)) < 4.5 / len(view) ** 0.5


def test_a_target_of_many_shots_has_less_noise():
    noisy, target, _ = stabilised_views(bars(8), 4, None, generator())

    part = (in_bars(target).var(2) / in_bars(noisy).var(2).clamp(min=1e-9)).median()
    assert part.item() == pytest.approx(1 / 4, rel=0.1)


def test_the_noise_has_one_level_at_every_brightness():
    """Where there are some photons, of which the transform can make unit noise."""
    noisy, _, weight = stabilised_views(bars(40), 1, None, generator())

    level = in_bars(noisy).std(2)
    bright = level[:, 4:]
    assert ((bright / bright.mean(1, keepdim=True) - 1).abs().amax(1) < 0.12).float().mean() > 0.85
    # The law is off by up to a tenth, and the weight goes by the range.
    expected = error_weight(bright.mean(1).square())
    assert (weight / expected).log().abs().median() < 0.1


def test_the_noisy_view_is_on_the_networks_range():
    noisy, _, _ = stabilised_views(bars(60), 1, None, generator())

    low, high = (torch.quantile(noisy.flatten(1), part, 1) for part in (0.002, 0.998))
    assert low.min() > -0.1
    assert high.max() < 1.1
    # Some fill it, others are part of an image with a wider range.
    assert ((high - low) > 0.85).float().mean() > 0.35
    assert ((high - low) < 0.5).float().mean() > 0.15


def test_grey_scenes_have_the_same_noise_in_all_channels():
    is_grey = torch.tensor([True, False])

    noisy, target, _ = stabilised_views(bars(2, 3), 2, is_grey, generator())

    for view in (noisy, target):
        assert torch.equal(view[0], view[0, ..., :1].expand(-1, -1, 3))
        assert abs(correlation(view[1, :, :16, 0], view[1, :, :16, 1])) < 0.1


def test_a_black_scene_gives_finite_views():
    views = stabilised_views(torch.zeros(20, 8, 8, 1), 2, None, generator())

    assert all(view.isfinite().all() for view in views)


# A share of the scenes


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_a_share_of_the_scenes_is_stabilised(grey):
    noise = PartlyStabilised(GaussianNoise(0, 0, grey=grey), 0.25, grey)
    scenes = scene_batch(*[speckled(16, seed) for seed in range(80)])

    noisy, target, weight = noise.views(scenes, 1, generator())

    # The others have no noise here.
    assert (noisy != target).flatten(1).any(1).sum() == 20
    assert noisy.shape == target.shape == (80, 16, 16, 3)
    assert weight.shape == (80,)
    same = (noisy == noisy[..., :1]).flatten(1).all(1).float().mean()
    assert same.item() == pytest.approx(grey, abs=0.15)


def test_the_same_generator_draws_the_same_views():
    noise, scenes = PartlyStabilised(GaussianNoise(), 0.5), scene_batch(speckled(16), speckled(16, 1))

    first, second = (noise.views(scenes, 1, generator(3)) for _ in range(2))

    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_validation_takes_the_base_model():
    with pytest.raises(NotImplementedError, match="validate with the base model"):
        PartlyStabilised(GaussianNoise(), 0.5).clean(scene_batch(speckled(8)), 1)
