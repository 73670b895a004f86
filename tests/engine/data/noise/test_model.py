import pytest
import torch

from engine.data.noise.model import GaussianNoise, RandomPixelNoise, parts, planner
from engine.data.patch_store import CropBoxes, PatchBatch, PatchStore

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
    places = CropBoxes(number, corner, corner, torch.full((count,), float(side)))
    return PatchBatch(PatchStore(scenes), places, side, torch.zeros(3, count, dtype=torch.bool))


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


@pytest.mark.parametrize(("level", "weight"), [(25, 1.0), (0, 9.15467), (55, 0.39292), (10, 2.78895)])
def test_a_scenes_weight_comes_from_its_level(level, weight):
    weights = GaussianNoise(level, level).views(squares(*[GREY[:4, :4]] * 3), 1, generator()).weight

    assert weights.tolist() == pytest.approx([weight] * 3, rel=1e-5)


def test_every_scene_has_a_gaussian_level_and_a_weight_of_its_own():
    views = GaussianNoise(5, 50).views(squares(*[GREY[:64, :64]] * 8), 1, generator())

    levels = (views.noisy - 100 / 255).std((1, 2, 3)) * 255
    assert len(views.weight.unique()) == 8
    torch.testing.assert_close(views.weight, (641 / (levels.square() + 16)) ** 0.6, rtol=0.1, atol=0)
    assert all(abs(correlation(views.noisy[0], other)) < 0.05 for other in views.noisy[1:])


def test_gaussian_views_are_as_large_as_their_scene():
    noise = GaussianNoise()
    views = noise.views(squares(speckled(20)), 1, generator())

    assert noise.draw_scales(3, generator()) == [1, 1, 1]
    assert noise.largest_scale == 1
    assert views.noisy.shape == views.target.shape == (1, 20, 20, 3)
    assert views.noisy.dtype == views.target.dtype == torch.float32


def test_a_share_of_the_scenes_is_grey_and_has_one_noise_in_all_channels():
    noise, scenes = GaussianNoise(20, 20, grey=0.2), squares(*[speckled(8, seed) for seed in range(500)])

    clean, views = noise.clean(scenes, 1), noise.views(scenes, 1, generator())

    grey = [(t == t[..., :1]).flatten(1).all(1) for t in (clean, views.noisy, views.target)]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    assert 0.15 < grey[0].float().mean() < 0.25
    luma = scenes.whole()[grey[0]] @ torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(clean[grey[0]][..., 0], luma)
    assert torch.equal(clean[~grey[0]], scenes.whole()[~grey[0]])
    assert (views.noisy - clean)[grey[0]].std().item() == pytest.approx(20 / 255, rel=0.03)


def test_grey_scenes_are_found_all_over_an_image():
    # 100 places, side by side, in one image.
    place = torch.arange(100)
    places = CropBoxes(torch.zeros_like(place), place // 10, place % 10, torch.full((100,), 8.0))
    scenes = PatchBatch(PatchStore([speckled(SIDE)]), places, 8, torch.zeros(3, 100, dtype=torch.bool))

    clean = GaussianNoise(grey=0.3).clean(scenes, 1)

    grey = (clean == clean[..., :1]).flatten(1).all(1).view(10, 10)
    assert 15 <= grey.sum() <= 45
    assert grey.any(0).sum() > 7
    assert grey.any(1).sum() > 7


def test_a_share_of_the_inputs_is_rounded_to_8_bits_and_no_target():
    noise, rng, scenes = GaussianNoise(50, 50, rounded=0.25), generator(), squares(*[BLACK[:16, :16]] * 10)
    sent = []
    for _ in range(100):
        views = noise.views(scenes, 1, rng)
        sent.append((views.noisy == (views.noisy * 255).round().clamp(0, 255) / 255).flatten(1).all(1))
        assert (views.target < 0).flatten(1).any(1).all()

    assert torch.cat(sent).float().mean().item() == pytest.approx(0.25, abs=0.02)


# Random pixels


def test_the_clean_image_of_random_pixel_noise_is_the_mean_of_each_block_by_hand():
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


def test_a_target_of_several_random_pixel_views_is_their_mean():
    noise, scenes = RandomPixelNoise(target_views=9), squares(*[speckled(64)] * 200)
    noisy, target, _ = noise.views(scenes, 4, generator(1))
    noise_left, target_left = (view - noise.clean(scenes, 4) for view in (noisy, target))

    assert (target_left.mean(0).abs() <= 5 * target_left.std(0) / 200**0.5).all()
    assert target_left.std().item() == pytest.approx(noise_left.std().item() / 3, rel=0.02)


@pytest.mark.parametrize("target_views", [1, 3])
def test_the_two_random_pixel_views_are_independent(target_views):
    noise = RandomPixelNoise(target_views=target_views)
    scenes = squares(speckled(4 * SIDE))
    clean = noise.clean(scenes, 4)
    noisy, target, _ = noise.views(scenes, 4, generator(1))

    assert abs(correlation(noisy - clean, target - clean)) < 4 / NUMBERS**0.5


def test_scales_are_drawn_from_all_sides_within_the_limits():
    noise, rng = RandomPixelNoise(2, 10), generator()

    assert set(noise.draw_scales(300, rng)) == set(range(2, 11))
    assert noise.largest_scale == 10


# Targets


@pytest.mark.parametrize(("noise", "scale"), [(GaussianNoise(), 1), (RandomPixelNoise(), 3)])
def test_the_mean_error_of_targets_is_zero_at_every_brightness(noise, scale):
    count, rng = 10_000, generator()
    # Black and white among the values.
    values = torch.randint(9, (count, 8 * scale, 8 * scale, 3), generator=rng) * 32
    scenes = squares(*values.clamp_(max=255).to(torch.uint8))
    clean = noise.clean(scenes, scale)

    error = noise.views(scenes, scale, rng).target - clean

    bins = (clean * 16).round().long()
    for number in range(17):
        sums = torch.where(bins == number, error, 0.0).double().sum((1, 2, 3))
        assert sums.mean().abs() <= 4 * sums.std() / count**0.5, number


# Parts of a batch


def test_parts_cover_a_batch_and_have_their_shares_on_average():
    rng = generator()
    drawn = [parts(8, (0.25, 0.3), rng) for _ in range(2000)]

    for slices in drawn:
        assert [part.start for part in slices] == [0, *(part.stop for part in slices[:-1])]
        assert slices[-1].stop == 8
        # As near to the share as whole numbers can be.
        assert slices[0].stop == 2
        assert slices[1].stop in (4, 5)
    assert sum(part[1].stop - part[1].start for part in drawn) / 2000 == pytest.approx(2.4, abs=0.05)


def test_the_only_scene_of_a_batch_is_in_each_part_at_times():
    rng = generator()
    drawn = [parts(1, (0.25, 0.0, 0.25), rng) for _ in range(2000)]

    counts = [sum(slices[place].stop - slices[place].start for slices in drawn) for place in range(4)]
    assert counts[1] == 0
    assert counts == pytest.approx([500, 0, 500, 1000], abs=80)


def test_what_is_decided_on_the_cpu_goes_on_from_a_generator_there():
    rng = generator()

    assert planner(rng) is rng


# Both


@pytest.mark.parametrize("noise", [GaussianNoise(), RandomPixelNoise()])
def test_the_same_state_draws_the_same_views(noise):
    first, second = (noise.views(squares(speckled(40)), 2, generator(5)) for _ in range(2))
    other = noise.views(squares(speckled(40)), 2, generator(6))

    assert torch.equal(first.noisy, second.noisy)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.noisy, other.noisy)
    assert not torch.equal(first.noisy, first.target)
