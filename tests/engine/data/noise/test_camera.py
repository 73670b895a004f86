import math
from functools import partial

import pytest
import torch

from engine.data.noise import camera
from engine.data.noise.camera import (
    DEMOSAICED,
    CameraNoise,
    blurred_power,
    channel_noise,
    demosaic,
    draw_cameras,
    inverse,
    magnify,
    processed_noise,
    raw_noise,
    shaped_noise,
)
from engine.data.noise.jpeg import TO_YCC
from tests.support.pixels import generator
from tests.support.scenes import scene_batch

PAIRS = 10_000


def speckled(count, side, seed=0):
    """Pixels of nine values, black and white among them."""
    values = torch.randint(9, (count, side, side, 3), generator=generator(seed)) * 32
    return values.clamp_(max=255).to(torch.uint8)


def flat(count, side, value):
    return torch.full((count, side, side, 3), value, dtype=torch.uint8)


def correlation(planes, lag):
    """Correlation of each plane (..., H, W) with itself moved by `lag` pixels: the mean over both directions."""
    power = planes.square().mean()
    across = (planes[..., lag:] * planes[..., :-lag]).mean()
    down = (planes[..., lag:, :] * planes[..., :-lag, :]).mean()
    return ((across + down) / 2 / power).item()


def planes(noise, matrix):
    """(N, H, W, 3) in RGB -> (3, N, H, W) of what the matrix makes of it."""
    return (noise @ torch.tensor(matrix).T).permute(3, 0, 1, 2)


def in_8_bits(images):
    """Which of the images have nothing but 8-bit numbers."""
    return (images == (images * 255).round().clamp(0, 255) / 255).flatten(1).all(1)


# Targets


@pytest.mark.parametrize("colour", ["all", "grey"])
@pytest.mark.parametrize(
    "shares",
    [{}, {"white": 1, "raw": 0}, {"white": 0, "raw": 1}, {"white": 0, "raw": 0}],
    ids=["mixed", "white", "raw", "JPEG"],
)
def test_the_mean_error_of_targets_is_zero_at_every_brightness(shares, colour):
    noise = CameraNoise(**shares, target_views=4, grey=1.0 if colour == "grey" else 0.1)
    scenes = scene_batch(*speckled(PAIRS, 8))
    clean = noise.clean(scenes, 1)

    error = noise.views(scenes, 1, generator()).target - clean

    bins = (clean * 16).round().long().clamp(0, 16)
    for number in range(17):
        sums = torch.where(bins == number, error, 0.0).double().sum((1, 2, 3))
        assert sums.mean().abs() <= 4 * sums.std() / PAIRS**0.5, number
    assert (clean == 0).any()
    assert (clean > 0.9999).any()


@pytest.mark.parametrize("noise", [processed_noise, channel_noise, raw_noise])
def test_the_second_shots_noise_has_mean_zero_at_the_limits(noise):
    for value in (0.0, 1.0):
        sums = noise(torch.full((PAIRS, 4, 4, 3), value), generator(1)).noise.sum((1, 2))

        assert (sums.mean(0).abs() <= 4 * sums.std(0) / PAIRS**0.5).all()


@pytest.mark.parametrize("noise", [processed_noise, channel_noise, raw_noise])
def test_the_power_of_the_noise_is_known(noise):
    clean = speckled(200, 8, 3).float() / 255
    shots = noise(clean.repeat(1, 8, 8, 1), generator())

    measured = shots.noise.square().mean((1, 2))

    # Slow noise has few independent values in a scene.
    assert (measured / shots.power).mean().item() == pytest.approx(1, abs=0.01)
    assert (measured / shots.power).log().std() < 0.2


@pytest.mark.parametrize("noise", [processed_noise, channel_noise])
def test_input_and_target_have_noise_of_like_strength(noise):
    clean = torch.rand(200, 64, 64, 3, generator=generator(9))
    shots = noise(clean, generator())

    ratio = (shots.noisy - clean).square().mean((1, 2)) / shots.noise.square().mean((1, 2))

    assert ratio.log().mean().abs() < 0.02


def test_a_developed_input_is_about_as_noisy_as_its_target():
    clean = (0.2 + 0.6 * torch.rand(200, 1, 1, 3, generator=generator(9))).expand(-1, 64, 64, -1)
    shots = raw_noise(clean, generator())

    ratio = (shots.noisy - clean).square().mean((1, 2)) / shots.noise.square().mean((1, 2))

    assert ratio.log().median().abs() < 0.1


@pytest.mark.parametrize("noise", [processed_noise, channel_noise, raw_noise])
def test_the_two_shots_are_independent(noise):
    clean = torch.full((200, 32, 32, 3), 0.5)
    shots = noise(clean, generator())
    products = ((shots.noisy - clean) * shots.noise).mean((1, 2)) / shots.power

    assert (products.mean(0).abs() <= 4 * products.std(0) / 200**0.5).all()


def test_a_target_of_four_views_has_half_the_noise():
    scenes = scene_batch(*flat(100, 16, 100))
    one, four = (CameraNoise(white=0, raw=0, target_views=n, grey=0) for n in (1, 4))
    clean = one.clean(scenes, 1)

    loud, low = (noise.views(scenes, 1, generator()).target - clean for noise in (one, four))

    torch.testing.assert_close(low, loud / 2, rtol=1e-4, atol=1e-6)


def test_a_scenes_weight_comes_from_the_power_of_what_was_drawn():
    scenes = scene_batch(*flat(60, 64, 100))
    noise = CameraNoise(grey=0, white=0.5)
    views = noise.views(scenes, 1, generator())

    variance = (views.target - noise.clean(scenes, 1)).square().mean((1, 2, 3)) * 255**2
    assert (views.weight * ((variance + 16) / 641) ** 0.6).log().abs().max() < 0.3
    assert views.weight.min() < 1
    assert views.weight.max() > 5


# Noise with a shape


@pytest.mark.parametrize("blur", [0.7, 1.5, 3.0])
def test_blurred_noise_has_the_correlation_of_its_blur(blur):
    first, second = shaped_noise(blurred_power(128, torch.full((40,), blur)), generator())

    for field in (first, second):
        assert field.square().mean().item() == pytest.approx(1, rel=0.05)
        for lag in (1, 2, 3):
            # A Gaussian's product with itself, lag pixels on.
            assert correlation(field, lag) == pytest.approx(math.exp(-((lag / blur / 2) ** 2)), abs=0.03)
    assert abs((first * second).mean()) < 0.03


def test_without_a_blur_noise_is_white():
    first, _ = shaped_noise(blurred_power(64, torch.zeros(30)), generator())

    assert all(abs(correlation(first, lag)) < 0.01 for lag in (1, 2, 3))


def test_luma_and_chroma_have_their_correlation_and_level(monkeypatch):
    for name, value in {
        "LUMA_BLUR": (0.8, 0.8), "CHROMA_BLUR": (2.0, 2.0), "CHROMA_LEVEL": (0.4, 0.4), "SLOW_SCENE_SHARE": 0,
        "MIN_LUMA_LEVEL": 5.0, "MAX_LUMA_LEVEL": 5.0, "NEARLY_CLEAN_SHARE": 0, "MAX_LEVEL_SLOPE": 0.0,
    }.items():  # fmt: skip
        monkeypatch.setattr(camera, name, value)
    clean = torch.full((60, 96, 96, 3), 0.5)
    shots = processed_noise(clean, generator())

    for noise in (shots.noisy - clean, shots.noise):
        luma, *chroma = planes(noise, TO_YCC)
        assert luma.std().item() * 255 == pytest.approx(5, rel=0.02)
        for plane in chroma:
            assert plane.std().item() * 255 == pytest.approx(2, rel=0.03)
            assert abs((plane * luma).mean() / plane.std() / luma.std()) < 0.01
        for lag in (1, 2, 3):
            assert correlation(luma, lag) == pytest.approx(math.exp(-((lag / 1.6) ** 2)), abs=0.02)
            assert correlation(torch.stack(chroma), lag) == pytest.approx(math.exp(-((lag / 4) ** 2)), abs=0.02)


def test_a_slow_part_shows_in_far_pixels(monkeypatch):
    for name, value in {"SLOW_SCENE_SHARE": 1.1, "SLOW_BLUR": (5.0, 5.0), "MAX_LEVEL_SLOPE": 0.0}.items():
        monkeypatch.setattr(camera, name, value)
    # Always the largest part: an even draw from 1 to 1.
    even = camera.uniform
    monkeypatch.setattr(
        camera,
        "uniform",
        lambda low, high, shape, rng: even(high if low == 0 and shape[1:] == (2,) else low, high, shape, rng),
    )
    clean = torch.full((100, 96, 96, 3), 0.5)
    luma, blue, _ = planes(processed_noise(clean, generator()).noise, TO_YCC)

    scale = math.exp(-((8 / 10) ** 2))
    assert correlation(luma / luma.std((1, 2), keepdim=True), 8) == pytest.approx(0.25 * scale, abs=0.03)
    assert correlation(blue / blue.std((1, 2), keepdim=True), 8) == pytest.approx(0.6 * scale, abs=0.07)


def test_drawn_noise_covers_what_was_measured_on_cameras():
    clean = torch.full((300, 64, 64, 3), 0.5)
    luma, blue, _ = planes(processed_noise(clean, generator()).noise, TO_YCC)

    level = luma.std((1, 2)) * 255
    near = [torch.tensor([correlation(plane, 1) for plane in part]) for part in (luma, blue)]
    # Measured: a level of about 4, chroma 0.4 of it, correlated by 0.60 in luma and 0.91 in chroma.
    for numbers, measured in (
        (level, 4.0), (blue.std((1, 2)) * 255 / level, 0.4), (near[0], 0.6), (near[1], 0.91),
    ):  # fmt: skip
        low, high = numbers.quantile(torch.tensor([0.1, 0.9])).tolist()
        assert low < measured < high
    assert level.min() < 1
    assert level.max() > 20


def test_noise_rises_or_falls_with_brightness():
    clean = torch.zeros(200, 32, 32, 3)
    clean[:, :, 16:] = 1
    noise = processed_noise(clean, generator()).noise

    ratio = noise[:, :, 16:].std((1, 2, 3)) / noise[:, :, :16].std((1, 2, 3))
    assert 0.35 < (ratio > 1).float().mean() < 0.65
    assert ratio.min() < 0.5
    assert ratio.max() > 2


def test_channels_have_independent_noise_of_different_levels():
    clean = torch.full((200, 32, 32, 3), 0.5)
    noise = channel_noise(clean, generator()).noise

    red, green, _ = noise.std((1, 2)).T
    assert (red / green).log().abs().median() > 0.2
    products = (noise[..., 0] * noise[..., 1]).mean((1, 2)) / red / green
    assert products.mean().abs() < 4 * products.std() / 200**0.5


# From raw light


def test_developing_undoes_undeveloping():
    cameras = draw_cameras(50, generator())
    images = torch.linspace(0, 1, 50).view(1, -1, 1, 1).expand(50, 50, 1, 3)

    torch.testing.assert_close(cameras.develop(cameras.undevelop(images)), images, rtol=0, atol=1e-3)
    assert cameras.toned.any()
    assert not cameras.toned.all()


def test_developing_clips_light_outside_the_range():
    cameras = draw_cameras(20, generator())
    beyond = torch.tensor([-0.3, 1.4]).view(1, 1, 2, 1).expand(20, 1, 2, 3)

    assert torch.equal(cameras.develop(beyond), beyond.clamp(0, 1))


def test_grey_light_is_the_same_in_all_channels_of_every_camera():
    cameras = draw_cameras(100, generator())

    torch.testing.assert_close(cameras.to_rgb.sum(2), torch.ones(100, 3), rtol=0, atol=1e-5)
    product = inverse(cameras.to_rgb) @ cameras.to_rgb
    torch.testing.assert_close(product, torch.eye(3).expand_as(product), rtol=0, atol=1e-5)


def test_the_noise_of_raw_pixels_grows_with_the_light():
    cameras = draw_cameras(100, generator())
    light = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1).expand(100, 1, 2, 3)

    dark, bright = cameras.variance(light).unbind(2)
    torch.testing.assert_close(dark[:, 0], cameras.read)
    torch.testing.assert_close(bright[:, 0], cameras.read + cameras.shot, rtol=1e-4, atol=0)
    assert cameras.shot[:, 1].min() < 1e-4
    assert cameras.shot[:, 1].max() > 5e-3
    assert (cameras.shot[:, 0] > 1.5 * cameras.shot[:, 1]).all()


@pytest.mark.parametrize("top", [0, 1])
@pytest.mark.parametrize("left", [0, 1])
def test_demosaicing_by_hand(top, left):
    raw = torch.arange(4 * 6 * 3.0).view(1, 4, 6, 3)

    got = demosaic(raw, torch.tensor([[top], [left]]))[0]

    for y in range(4):
        for x in range(6):
            for channel in range(3):
                near = [(y + v, x + u) for v in (-1, 0, 1) for u in (-1, 0, 1)]
                if channel == 1:
                    near = [(v, u) for v, u in near if abs(v - y) + abs(u - x) < 2]
                known = [(v, u) for v, u in near if (v + top) % 2 + (u + left) % 2 == channel]
                known = [(y, x)] if (y, x) in known else known
                mean = sum(raw[0, v % 4, u % 6, channel] for v, u in known) / len(known)
                assert got[y, x, channel] == mean


def test_demosaicing_leaves_the_stated_part_of_the_variance():
    raw = torch.randn(20, 64, 64, 1, generator=generator()).expand(-1, -1, -1, 3)

    left = demosaic(raw, torch.randint(2, (2, 20), generator=generator())).var((0, 1, 2))

    torch.testing.assert_close(left, torch.tensor(DEMOSAICED), rtol=0.02, atol=0)


def test_raw_noise_is_correlated_as_demosaicing_leaves_it():
    clean = torch.full((40, 64, 64, 3), 0.5)
    shots = raw_noise(clean, generator())
    green = (shots.noisy - clean)[..., 1]

    assert correlation(green / green.std((1, 2), keepdim=True), 1) > 0.3
    assert abs(correlation(shots.noise[..., 1], 1)) < 0.03


# File formats


@pytest.mark.parametrize(
    ("noise", "share"),
    [
        (CameraNoise(white=0, jpeg=0.5, rounded=0), 0.5),
        (CameraNoise(white=0, jpeg=0, rounded=0.3), 0.3),
        (CameraNoise(white=0, jpeg=0.5, rounded=0.4), 0.7),
        (CameraNoise(white=1, raw=0, jpeg=1, rounded=0.5), 0.5),
        (CameraNoise(jpeg=0, rounded=0), 0.0),
        (CameraNoise(jpeg=1, rounded=1), 1.0),
    ],
)
def test_a_share_of_the_inputs_has_8_bits_and_no_target(noise, share):
    rng, scenes = generator(), scene_batch(*speckled(10, 16))
    eight_bits = []
    for _ in range(60):
        views = noise.views(scenes, 1, rng)
        eight_bits.append(in_8_bits(views.noisy))
        assert not in_8_bits(views.target).any()
        assert views.noisy[eight_bits[-1]].ge(0).all()
        assert views.noisy[eight_bits[-1]].le(1).all()

    assert torch.cat(eight_bits).float().mean().item() == pytest.approx(share, abs=0.02)


def test_targets_do_not_depend_on_the_inputs_file_format():
    scenes = scene_batch(*speckled(12, 16))

    plain, compressed = (
        CameraNoise(white=0.2, jpeg=jpeg, rounded=rounded).views(scenes, 1, generator(3))
        for jpeg, rounded in ((0, 0), (1, 1))
    )

    assert torch.equal(plain.target, compressed.target)
    assert torch.equal(plain.weight, compressed.weight)
    assert not torch.equal(plain.noisy, compressed.noisy)


def test_every_kind_of_noise_has_its_share_of_the_scenes(monkeypatch):
    counts = dict.fromkeys(("white_noise", "raw_noise", "channel_noise", "processed_noise"), 0)

    def counted(name, draw, clean, *values):
        counts[name] += len(clean)
        return draw(clean, *values)

    for name in counts:
        monkeypatch.setattr(camera, name, partial(counted, name, getattr(camera, name)))
    rng, noise, scenes = generator(), CameraNoise(white=0.25, raw=0.125), scene_batch(*speckled(8, 8))
    for _ in range(400):
        noise.views(scenes, 1, rng)

    # One scene in eight of a camera's has noise by channels.
    expected = {"white_noise": 800, "raw_noise": 400, "channel_noise": 250, "processed_noise": 1750}
    assert sum(counts.values()) == 3200
    assert all(abs(counts[name] - expected[name]) < 40 for name in counts), counts


def test_a_share_of_the_scenes_is_grey_and_so_are_their_views():
    scenes, noise = scene_batch(*speckled(3000, 8)), CameraNoise(grey=0.1)
    clean, views = noise.clean(scenes, 1), noise.views(scenes, 1, generator())

    grey = [(t == t[..., :1]).flatten(1).all(1) for t in (clean, views.noisy, views.target)]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    assert grey[0].float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_without_a_grey_share_scenes_are_unchanged():
    scenes = scene_batch(*speckled(50, 8))

    assert torch.equal(CameraNoise(grey=0).clean(scenes, 1), scenes.read())


def test_a_share_of_the_scenes_is_soft_in_their_views_as_well():
    scenes = scene_batch(*speckled(3000, 8))
    noise = CameraNoise(low=0, high=0, white=1, raw=0, rounded=0, grey=0.1, soft=0.4)
    clean, views = noise.clean(scenes, 1), noise.views(scenes, 1, generator())
    sharp, grey = (CameraNoise(grey=share).clean(scenes, 1) for share in (0, 0.1))

    same, colourless = ((clean == other).flatten(1).all(1) for other in (sharp, grey))
    assert torch.equal(views.target, clean)
    assert torch.equal(views.noisy, clean)
    assert 1 - same.float().mean().item() == pytest.approx(0.1 + 0.9 * 0.4, abs=0.03)
    # Being soft has nothing to do with being grey.
    assert 1 - colourless.float().mean().item() == pytest.approx(0.4, abs=0.03)


def test_soft_scenes_differ_little_between_neighbours():
    clean = scene_batch(*speckled(200, 32)).read()
    soft = CameraNoise(grey=0, soft=1).clean(scene_batch(*speckled(200, 32)), 1)

    def growth(x):
        """How much more power differences over two pixels have than over one."""
        return (x[..., 2:, :] - x[..., :-2, :]).square().mean() / (x[..., 1:, :] - x[..., :-1, :]).square().mean()

    assert growth(clean) == pytest.approx(1, abs=0.02)
    assert growth(soft) > 2
    assert soft.mean().item() == pytest.approx(clean.mean().item(), abs=0.01)


def test_a_part_of_a_scene_is_magnified():
    down = torch.arange(16.0).view(1, 16, 1, 1).expand(2, 16, 16, 3) + torch.tensor([0.0, 100]).view(2, 1, 1, 1)
    zoom, blur, place = torch.tensor([2.0, 4.0]), torch.tensor([0.4, 0.4]), torch.tensor([0.0, 1.0])

    large = magnify(down, zoom, blur, place)

    # The upper half and the lowest quarter: between the centres of their pixels a slope remains a slope.
    assert large[0, 1:15, 5, 0].tolist() == pytest.approx([i / 2 - 0.25 for i in range(1, 15)], abs=0.1)
    assert large[1, 2:14, 5, 0].tolist() == pytest.approx([112 + i / 4 - 0.375 for i in range(2, 14)], abs=0.1)
    transposed = magnify(down.transpose(1, 2), zoom, blur, place)
    torch.testing.assert_close(transposed.transpose(1, 2), large)


def test_magnifying_by_1_with_little_blur_changes_nothing():
    clean = scene_batch(*speckled(3, 16)).read()
    ones = torch.ones(3)

    torch.testing.assert_close(magnify(clean, ones, 0.1 * ones, 0.5 * ones), clean)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_same_state_draws_the_same_views(count):
    noise, scenes = CameraNoise(), scene_batch(*speckled(count, 16))

    first, second, other = (noise.views(scenes, 1, generator(seed)) for seed in (5, 5, 6))

    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.noisy, other.noisy)
    assert first.noisy.shape == first.target.shape == (count, 16, 16, 3)
    assert first.weight.shape == (count,)
    assert first.noisy.dtype == first.target.dtype == first.weight.dtype == torch.float32


def test_views_are_as_large_as_their_scenes():
    assert CameraNoise().draw_scales(3, generator()) == [1, 1, 1]
    assert CameraNoise().largest_scale == 1


def test_all_numbers_are_finite_in_black_and_in_white():
    noise, rng = CameraNoise(), generator()
    for value in (0, 255):
        for _ in range(20):
            assert all(part.isfinite().all() for part in noise.views(scene_batch(*flat(8, 16, value)), 1, rng))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_draws_without_synchronising():
    scenes, noise = scene_batch(*speckled(16, 32), device="cuda"), CameraNoise()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for seed in range(3):
            views = noise.views(scenes, 1, torch.Generator("cuda").manual_seed(seed))
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert all(part.isfinite().all() for part in views)
