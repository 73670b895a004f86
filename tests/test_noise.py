import pytest
import torch

from engine.album import Album, Places, Squares
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


def squares(*scenes):
    """The scenes, square and of equal size, as they are."""
    count, side = len(scenes), len(scenes[0])
    number, corner = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    places = Places(number, corner, corner, torch.full((count,), float(side)))
    return Squares(Album(scenes), places, side, torch.zeros(3, count, dtype=torch.bool))


def correlation(a, b):
    return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()


# Gaussian


@pytest.mark.parametrize("scene", [BLACK, GREY, WHITE])
@pytest.mark.parametrize("target_views", [1, 4])
def test_gaussian_noise_has_mean_zero_and_the_level_asked_for_even_at_black_and_white(scene, target_views):
    noise = GaussianNoise(25, 25, target_views)
    noisy, target, _ = noise.views(squares(scene), 1, generator())
    clean = noise.clean(squares(scene), 1)

    for view, sigma in ((noisy, 25 / 255), (target, 25 / 255 / target_views**0.5)):
        residual = view - clean
        assert abs(residual.mean()) < 4 * sigma / NUMBERS**0.5
        assert residual.std().item() == pytest.approx(sigma, rel=0.02)


def test_gaussian_noise_is_never_clipped():
    for scene, beyond in ((BLACK, lambda view: view < 0), (WHITE, lambda view: view > 1)):
        noisy, target, _ = GaussianNoise(50, 50).views(squares(scene), 1, generator())

        assert beyond(noisy).float().mean().item() == pytest.approx(0.5, abs=0.01)
        assert beyond(target).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_the_two_gaussian_views_are_independent():
    noise = GaussianNoise(25, 25)
    noisy, target, _ = noise.views(squares(GREY), 1, generator())
    clean = noise.clean(squares(GREY), 1)

    assert abs(correlation(noisy - clean, target - clean)) < 4 / NUMBERS**0.5


def test_gaussian_levels_are_drawn_evenly_between_the_limits():
    noise, rng = GaussianNoise(10, 30), generator()
    levels = (noise.views(squares(*[GREY[:32, :32]] * 300), 1, rng).noisy - 100 / 255).std((1, 2, 3)) * 255

    assert 9 < levels.min() < 12
    assert 28 < levels.max() < 32
    assert levels.mean().item() == pytest.approx(20, abs=4 * 20 / 12**0.5 / 300**0.5)


@pytest.mark.parametrize(("level", "weight"), [(25, 1.0), (0, 7.25), (55, 725 / 3125), (10, 725 / 200)])
def test_a_scenes_weight_comes_from_its_level(level, weight):
    weights = GaussianNoise(level, level).views(squares(*[GREY[:4, :4]] * 3), 1, generator()).weight

    assert weights.tolist() == pytest.approx([weight] * 3)


def test_every_scene_has_a_gaussian_level_and_a_weight_of_its_own():
    views = GaussianNoise(5, 50).views(squares(*[GREY[:64, :64]] * 8), 1, generator())

    levels = (views.noisy - 100 / 255).std((1, 2, 3)) * 255
    assert len(views.weight.unique()) == 8
    torch.testing.assert_close(views.weight, 725 / (levels.square() + 100), rtol=0.1, atol=0)
    assert all(abs(correlation(views.noisy[0], other)) < 0.05 for other in views.noisy[1:])


def test_gaussian_views_are_as_large_as_their_scene():
    noise = GaussianNoise()
    views = noise.views(squares(speckled(20)), 1, generator())

    assert noise.draw_scales(3, generator()) == [1, 1, 1]
    assert noise.largest_scale == 1
    assert views.noisy.shape == views.target.shape == (1, 20, 20, 3)
    assert views.noisy.dtype == views.target.dtype == torch.float32


# Random pixels


def test_the_clean_picture_of_random_pixel_noise_is_the_mean_of_each_block_by_hand():
    scene = torch.tensor([[0, 51], [102, 255]], dtype=torch.uint8).repeat(1, 2)
    scene[:, 2:] = 255
    scene = scene.repeat(2, 1).unsqueeze(2).expand(4, 4, 3)

    clean = RandomPixelNoise().clean(squares(scene), 2)

    torch.testing.assert_close(clean, torch.tensor([0.4, 1.0]).view(1, 1, 2, 1).expand(1, 2, 2, 3))


def test_each_noisy_pixel_is_a_pixel_of_its_own_block():
    side, scale = 6, 4
    # Every pixel says where it stands.
    place = torch.arange(side * scale)
    scene = torch.stack(torch.broadcast_tensors(place.view(-1, 1), place, torch.tensor(7)), 2).to(torch.uint8)

    noisy, target, weight = RandomPixelNoise().views(squares(scene, scene), scale, generator())

    block = torch.arange(side)
    for view in (noisy, target):
        y, x, same = (view * 255).round().long().unbind(3)
        assert torch.equal(y // scale, block.view(-1, 1).expand(2, side, side))
        assert torch.equal(x // scale, block.expand(2, side, side))
        assert same.eq(7).all()
    assert weight.tolist() == [1, 1]


@pytest.mark.parametrize("scale", [2, 5])
def test_random_pixel_noise_has_mean_zero(scale):
    noise, rng = RandomPixelNoise(), generator(1)
    scenes = squares(*[speckled(8 * scale)] * 2000)
    residuals = noise.views(scenes, scale, rng).noisy - noise.clean(scenes, scale)

    # Of each pixel by itself, not only of all of them together.
    spread = residuals.std(0) / 2000**0.5
    assert (residuals.mean(0).abs() <= 5 * spread).all()


def test_the_two_random_pixel_views_are_independent():
    noise = RandomPixelNoise()
    scenes = squares(speckled(4 * SIDE))
    clean = noise.clean(scenes, 4)
    noisy, target, _ = noise.views(scenes, 4, generator(1))

    assert abs(correlation(noisy - clean, target - clean)) < 4 / NUMBERS**0.5


def test_scales_are_drawn_from_all_sides_within_the_limits():
    noise, rng = RandomPixelNoise(2, 10), generator()

    assert set(noise.draw_scales(300, rng)) == set(range(2, 11))
    assert noise.largest_scale == 10


# Both


@pytest.mark.parametrize("noise", [GaussianNoise(), RandomPixelNoise()])
def test_the_same_state_draws_the_same_views(noise):
    first, second = (noise.views(squares(speckled(40)), 2, generator(5)) for _ in range(2))
    other = noise.views(squares(speckled(40)), 2, generator(6))

    assert torch.equal(first.noisy, second.noisy)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.noisy, other.noisy)
    assert not torch.equal(first.noisy, first.target)
