import pytest
import torch

from engine.data.noise.random_pixel import RandomPixelNoise
from tests.support.pixels import generator
from tests.support.scenes import correlation, scene_batch, speckled

SIDE = 200
# Numbers in a view. The standard deviation of their mean is that of one number / √NUMBERS.
NUMBERS = SIDE * SIDE * 3


def test_the_clean_image_is_the_mean_of_each_block_by_hand():
    scene = torch.tensor([[0, 51], [102, 255]], dtype=torch.uint8).repeat(1, 2)
    scene[:, 2:] = 255
    scene = scene.repeat(2, 1).unsqueeze(2).expand(4, 4, 3)

    clean = RandomPixelNoise().clean(scene_batch(scene), 2)

    torch.testing.assert_close(clean, torch.tensor([0.4, 1.0]).view(1, 1, 2, 1).expand(1, 2, 2, 3))


def test_each_noisy_pixel_is_a_pixel_of_its_own_block():
    side, scale = 6, 4
    # Every pixel holds its own position.
    position = torch.arange(side * scale)
    scene = torch.stack(torch.broadcast_tensors(position.view(-1, 1), position, torch.tensor(7)), 2).to(
        torch.uint8
    )

    noisy, target, weight = RandomPixelNoise().views(scene_batch(scene, scene), scale, generator())

    block = torch.arange(side)
    for view in (noisy, target):
        y, x, same = (view * 255).round().long().unbind(3)
        assert torch.equal(y // scale, block.view(-1, 1).expand(2, side, side))
        assert torch.equal(x // scale, block.expand(2, side, side))
        assert same.eq(7).all()
    assert weight.tolist() == [1, 1]


@pytest.mark.parametrize("scale", [2, 5])
def test_noise_has_mean_zero(scale):
    noise, rng = RandomPixelNoise(), generator(1)
    scenes = scene_batch(*[speckled(8 * scale)] * 2000)
    residuals = noise.views(scenes, scale, rng).noisy - noise.clean(scenes, scale)

    # Of each pixel by itself, not only of all of them together.
    spread = residuals.std(0) / 2000**0.5
    assert (residuals.mean(0).abs() <= 5 * spread).all()


def test_a_target_of_several_views_is_their_mean():
    noise, scenes = RandomPixelNoise(target_views=9), scene_batch(*[speckled(64)] * 200)
    noisy, target, _ = noise.views(scenes, 4, generator(1))
    noise_left, target_left = (view - noise.clean(scenes, 4) for view in (noisy, target))

    assert (target_left.mean(0).abs() <= 5 * target_left.std(0) / 200**0.5).all()
    assert target_left.std().item() == pytest.approx(noise_left.std().item() / 3, rel=0.02)


@pytest.mark.parametrize("target_views", [1, 3])
def test_the_two_views_are_independent(target_views):
    noise = RandomPixelNoise(target_views=target_views)
    scenes = scene_batch(speckled(4 * SIDE))
    clean = noise.clean(scenes, 4)
    noisy, target, _ = noise.views(scenes, 4, generator(1))

    assert abs(correlation(noisy - clean, target - clean)) < 4 / NUMBERS**0.5


def test_scales_are_drawn_from_all_sides_within_the_limits():
    noise, rng = RandomPixelNoise(2, 10), generator()

    assert set(noise.draw_scales(300, rng)) == set(range(2, 11))
    assert noise.largest_scale == 10
