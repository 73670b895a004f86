import pytest
import torch

from engine.data.noise.gaussian import GaussianNoise
from engine.data.noise.model import cpu_generator, split_batch
from engine.data.noise.random_pixel import RandomPixelNoise
from tests.support.pixels import generator
from tests.support.scenes import scene_batch, speckled

# Targets


@pytest.mark.parametrize(("noise", "scale"), [(GaussianNoise(), 1), (RandomPixelNoise(), 3)])
def test_the_mean_error_of_targets_is_zero_at_every_brightness(noise, scale):
    count, rng = 10_000, generator()
    # Black and white among the values.
    values = torch.randint(9, (count, 8 * scale, 8 * scale, 3), generator=rng) * 32
    scenes = scene_batch(*values.clamp_(max=255).to(torch.uint8))
    clean = noise.clean(scenes, scale)

    error = noise.views(scenes, scale, rng).target - clean

    bins = (clean * 16).round().long()
    for number in range(17):
        sums = torch.where(bins == number, error, 0.0).double().sum((1, 2, 3))
        assert sums.mean().abs() <= 4 * sums.std() / count**0.5, number


# Parts of a batch


def test_slices_cover_a_batch_and_have_their_shares():
    rng = generator()
    drawn = [split_batch(8, (0.25, 0.3), rng) for _ in range(2000)]

    for slices in drawn:
        assert [part.start for part in slices] == [0, *(part.stop for part in slices[:-1])]
        assert slices[-1].stop == 8
        # As near to the share as whole numbers can be.
        assert slices[0].stop == 2
        assert slices[1].stop in (4, 5)
    assert sum(part[1].stop - part[1].start for part in drawn) / 2000 == pytest.approx(2.4, abs=0.05)


def test_the_only_scene_of_a_batch_is_in_each_slice_at_times():
    rng = generator()
    drawn = [split_batch(1, (0.25, 0.0, 0.25), rng) for _ in range(2000)]

    counts = [sum(slices[index].stop - slices[index].start for slices in drawn) for index in range(4)]
    assert counts[1] == 0
    assert counts == pytest.approx([500, 0, 500, 1000], abs=80)


def test_a_generator_on_the_cpu_is_used_for_decisions_there():
    rng = generator()

    assert cpu_generator(rng) is rng


# Both


@pytest.mark.parametrize("noise", [GaussianNoise(), RandomPixelNoise()])
def test_the_same_state_draws_the_same_views(noise):
    first, second = (noise.views(scene_batch(speckled(40)), 2, generator(5)) for _ in range(2))
    other = noise.views(scene_batch(speckled(40)), 2, generator(6))

    assert torch.equal(first.noisy, second.noisy)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.noisy, other.noisy)
    assert not torch.equal(first.noisy, first.target)
