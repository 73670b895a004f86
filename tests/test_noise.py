import pytest
import torch

from engine.noise import GaussianNoise, RandomPixelNoise

SIDE = 200
BLACK = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)
WHITE = torch.full((SIDE, SIDE, 3), 255, dtype=torch.uint8)
GREY = torch.full((SIDE, SIDE, 3), 100, dtype=torch.uint8)
# Numbers in a view; a mean of so many is good to its standard deviation / √NUMBERS.
NUMBERS = SIDE * SIDE * 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def speckled(side, seed=0):
    return torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=generator(seed))


def correlation(a, b):
    return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()


# Gaussian


@pytest.mark.parametrize("scene", [BLACK, GREY, WHITE])
@pytest.mark.parametrize("target_views", [1, 4])
def test_gaussian_noise_has_mean_zero_and_the_level_asked_for_even_at_black_and_white(scene, target_views):
    noise = GaussianNoise(25, 25, target_views)
    noisy, target, _ = noise.views(scene, 1, generator())
    clean = noise.clean(scene, 1)

    for view, sigma in ((noisy, 25 / 255), (target, 25 / 255 / target_views**0.5)):
        residual = view - clean
        assert abs(residual.mean()) < 4 * sigma / NUMBERS**0.5
        assert residual.std().item() == pytest.approx(sigma, rel=0.02)


def test_gaussian_noise_is_never_clipped():
    for scene, beyond in ((BLACK, lambda view: view < 0), (WHITE, lambda view: view > 1)):
        noisy, target, _ = GaussianNoise(50, 50).views(scene, 1, generator())

        assert beyond(noisy).float().mean().item() == pytest.approx(0.5, abs=0.01)
        assert beyond(target).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_the_two_gaussian_views_are_independent():
    noise = GaussianNoise(25, 25)
    noisy, target, _ = noise.views(GREY, 1, generator())
    clean = noise.clean(GREY, 1)

    assert abs(correlation(noisy - clean, target - clean)) < 4 / NUMBERS**0.5


def test_gaussian_levels_are_drawn_evenly_between_the_limits():
    noise, rng = GaussianNoise(10, 30), generator()
    scene = GREY[:32, :32]
    levels = torch.tensor([float((noise.views(scene, 1, rng).noisy - 100 / 255).std()) * 255 for _ in range(300)])

    assert 9 < levels.min() < 12
    assert 28 < levels.max() < 32
    assert levels.mean().item() == pytest.approx(20, abs=4 * 20 / 12**0.5 / 300**0.5)


@pytest.mark.parametrize(("level", "weight"), [(25, 1.0), (0, 7.25), (55, 725 / 3125), (10, 725 / 200)])
def test_a_scenes_weight_comes_from_its_level(level, weight):
    assert GaussianNoise(level, level).views(GREY[:4, :4], 1, generator()).weight == pytest.approx(weight)


def test_gaussian_views_are_as_large_as_their_scene():
    noise = GaussianNoise()
    views = noise.views(speckled(20), noise.draw_scale(generator()), generator())

    assert noise.largest_scale == 1
    assert views.noisy.shape == views.target.shape == (20, 20, 3)
    assert views.noisy.dtype == views.target.dtype == torch.float32


# Random pixels


def test_the_clean_picture_of_random_pixel_noise_is_the_mean_of_each_block_by_hand():
    scene = torch.tensor([[0, 51, 255, 255], [102, 255, 255, 255]], dtype=torch.uint8)
    scene = scene.view(2, 4, 1).expand(2, 4, 3)

    clean = RandomPixelNoise().clean(scene, 2)

    torch.testing.assert_close(clean, torch.tensor([0.4, 1.0]).view(1, 2, 1).expand(1, 2, 3))


def test_each_noisy_pixel_is_a_pixel_of_its_own_block():
    side, scale = 6, 4
    # Every pixel says where it stands.
    place = torch.arange(side * scale)
    scene = torch.stack(torch.broadcast_tensors(place.view(-1, 1), place, torch.tensor(7)), 2).to(torch.uint8)

    noisy, target, weight = RandomPixelNoise().views(scene, scale, generator())

    block = torch.arange(side)
    for view in (noisy, target):
        y, x, same = (view * 255).round().long().unbind(2)
        assert torch.equal(y // scale, block.view(-1, 1).expand(side, side))
        assert torch.equal(x // scale, block.expand(side, side))
        assert same.eq(7).all()
    assert weight == 1


@pytest.mark.parametrize("scale", [2, 5])
def test_random_pixel_noise_has_mean_zero(scale):
    noise, rng = RandomPixelNoise(), generator(1)
    scene = speckled(8 * scale)
    clean = noise.clean(scene, scale)
    residuals = torch.stack([noise.views(scene, scale, rng).noisy - clean for _ in range(2000)])

    # Of each pixel by itself, not only of all of them together.
    spread = residuals.std(0) / 2000**0.5
    assert (residuals.mean(0).abs() <= 5 * spread).all()


def test_the_two_random_pixel_views_are_independent():
    noise = RandomPixelNoise()
    scene = speckled(4 * SIDE)
    clean = noise.clean(scene, 4)
    noisy, target, _ = noise.views(scene, 4, generator(1))

    assert abs(correlation(noisy - clean, target - clean)) < 4 / NUMBERS**0.5


def test_scales_are_drawn_from_all_sides_within_the_limits():
    noise, rng = RandomPixelNoise(2, 10), generator()

    assert {noise.draw_scale(rng) for _ in range(300)} == set(range(2, 11))
    assert noise.largest_scale == 10


# Both


@pytest.mark.parametrize("noise", [GaussianNoise(), RandomPixelNoise()])
def test_the_same_state_draws_the_same_views(noise):
    first, second = (noise.views(speckled(40), 2, generator(5)) for _ in range(2))
    other = noise.views(speckled(40), 2, generator(6))

    assert torch.equal(first.noisy, second.noisy)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.noisy, other.noisy)
    assert not torch.equal(first.noisy, first.target)
