import pytest
import torch

from engine.data.noise.gaussian import GaussianNoise
from engine.data.patch_store import CropBoxes, PatchBatch, PatchStore
from tests.support.pixels import generator
from tests.support.scenes import correlation, scene_batch, speckled

SIDE = 200
BLACK = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)
WHITE = torch.full((SIDE, SIDE, 3), 255, dtype=torch.uint8)
GREY = torch.full((SIDE, SIDE, 3), 100, dtype=torch.uint8)
# Numbers in a view. The standard deviation of their mean is that of one number / √NUMBERS.
NUMBERS = SIDE * SIDE * 3


@pytest.mark.parametrize("scene", [BLACK, GREY, WHITE])
@pytest.mark.parametrize("target_views", [1, 4])
def test_noise_has_mean_zero_and_its_level_at_black_and_white(scene, target_views):
    noise = GaussianNoise(25, 25, target_views)
    noisy, target, _ = noise.views(scene_batch(scene), 1, generator())
    clean = noise.clean(scene_batch(scene), 1)

    for view, sigma in ((noisy, 25 / 255), (target, 25 / 255 / target_views**0.5)):
        residual = view - clean
        assert abs(residual.mean()) < 4 * sigma / NUMBERS**0.5
        assert residual.std().item() == pytest.approx(sigma, rel=0.02)


def test_noise_is_never_clipped():
    for scene, beyond in ((BLACK, lambda view: view < 0), (WHITE, lambda view: view > 1)):
        noisy, target, _ = GaussianNoise(50, 50).views(scene_batch(scene), 1, generator())

        assert beyond(noisy).float().mean().item() == pytest.approx(0.5, abs=0.01)
        assert beyond(target).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_the_two_views_are_independent():
    noise = GaussianNoise(25, 25)
    noisy, target, _ = noise.views(scene_batch(GREY), 1, generator())
    clean = noise.clean(scene_batch(GREY), 1)

    assert abs(correlation(noisy - clean, target - clean)) < 4 / NUMBERS**0.5


def test_levels_are_drawn_evenly_between_the_limits():
    noise, rng = GaussianNoise(10, 30), generator()
    levels = (noise.views(scene_batch(*[GREY[:32, :32]] * 300), 1, rng).noisy - 100 / 255).std((1, 2, 3)) * 255

    assert 9 < levels.min() < 12
    assert 28 < levels.max() < 32
    assert levels.mean().item() == pytest.approx(20, abs=4 * 20 / 12**0.5 / 300**0.5)


@pytest.mark.parametrize(("level", "weight"), [(25, 1.0), (0, 9.15467), (55, 0.39292), (10, 2.78895)])
def test_a_scenes_weight_comes_from_its_level(level, weight):
    weights = GaussianNoise(level, level).views(scene_batch(*[GREY[:4, :4]] * 3), 1, generator()).weight

    assert weights.tolist() == pytest.approx([weight] * 3, rel=1e-5)


def test_every_scene_has_its_own_level_and_weight():
    views = GaussianNoise(5, 50).views(scene_batch(*[GREY[:64, :64]] * 8), 1, generator())

    levels = (views.noisy - 100 / 255).std((1, 2, 3)) * 255
    assert len(views.weight.unique()) == 8
    torch.testing.assert_close(views.weight, (641 / (levels.square() + 16)) ** 0.6, rtol=0.1, atol=0)
    assert all(abs(correlation(views.noisy[0], other)) < 0.05 for other in views.noisy[1:])


def test_views_are_as_large_as_their_scene():
    noise = GaussianNoise()
    views = noise.views(scene_batch(speckled(20)), 1, generator())

    assert noise.draw_scales(3, generator()) == [1, 1, 1]
    assert noise.largest_scale == 1
    assert views.noisy.shape == views.target.shape == (1, 20, 20, 3)
    assert views.noisy.dtype == views.target.dtype == torch.float32


def test_grey_scenes_have_the_same_noise_in_all_channels():
    noise, scenes = GaussianNoise(20, 20, grey=0.2), scene_batch(*[speckled(8, seed) for seed in range(500)])

    clean, views = noise.clean(scenes, 1), noise.views(scenes, 1, generator())

    grey = [(t == t[..., :1]).flatten(1).all(1) for t in (clean, views.noisy, views.target)]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    assert 0.15 < grey[0].float().mean() < 0.25
    luma = scenes.read()[grey[0]] @ torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(clean[grey[0]][..., 0], luma)
    assert torch.equal(clean[~grey[0]], scenes.read()[~grey[0]])
    assert (views.noisy - clean)[grey[0]].std().item() == pytest.approx(20 / 255, rel=0.03)


def test_grey_scenes_are_found_all_over_an_image():
    # 100 positions, side by side, in one image.
    number = torch.arange(100)
    boxes = CropBoxes(torch.zeros_like(number), number // 10, number % 10, torch.full((100,), 8.0))
    scenes = PatchBatch(PatchStore([speckled(SIDE)]), boxes, 8, torch.zeros(3, 100, dtype=torch.bool))

    clean = GaussianNoise(grey=0.3).clean(scenes, 1)

    grey = (clean == clean[..., :1]).flatten(1).all(1).view(10, 10)
    assert 15 <= grey.sum() <= 45
    assert grey.any(0).sum() > 7
    assert grey.any(1).sum() > 7


def test_a_share_of_the_inputs_is_rounded_and_no_target():
    noise, rng, scenes = GaussianNoise(50, 50, rounded=0.25), generator(), scene_batch(*[BLACK[:16, :16]] * 10)
    rounded = []
    for _ in range(100):
        views = noise.views(scenes, 1, rng)
        rounded.append((views.noisy == (views.noisy * 255).round().clamp(0, 255) / 255).flatten(1).all(1))
        assert (views.target < 0).flatten(1).any(1).all()

    assert torch.cat(rounded).float().mean().item() == pytest.approx(0.25, abs=0.02)
