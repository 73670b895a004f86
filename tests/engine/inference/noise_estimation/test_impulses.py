import pytest
import torch

from engine.data import text
from engine.data.patterns import patterns
from engine.imageio.read import read_rgb
from engine.inference.noise_estimation.impulses import estimate_impulses, replace_impulses
from tests.support.noise import DATA, generator, leaves, needs_kodak, needs_polyu, noise


def in_bytes(image):
    return (255 * image).round().clamp(0, 255).to(torch.uint8)


def with_salt_and_pepper(samples, share, white=255, seed=0):
    chance = torch.rand(*samples.shape[:2], 1, generator=generator(seed)).expand(samples.shape)
    dirty = torch.where(chance < share / 2, 0, torch.where(chance > 1 - share / 2, white, samples.float()))
    return dirty.to(samples.dtype), (chance < share / 2) | (chance > 1 - share / 2)


def psnr(one, other):
    return float(-10 * ((one.float() - other.float()) / 255).square().mean().log10())


def stars(spread, side=256, count=60):
    rng = generator(3)
    row, column = torch.arange(side).view(-1, 1), torch.arange(side)
    sky = torch.full((side, side), 800.0)
    for _ in range(count):
        y, x, light = torch.rand(3, generator=rng).tolist()
        y, x = 5 + (side - 10) * y, 5 + (side - 10) * x
        sky += 10 ** (2.2 + 2.5 * light) * (-((row - y) ** 2 + (column - x) ** 2) / (2 * spread**2)).exp()
    return (sky + sky.sqrt() * torch.randn(side, side, generator=rng)).unsqueeze(2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("share", "least"), [(0.04, 29), (0.3, 24)])
@pytest.mark.parametrize("seed", [0, 3])
def test_salt_and_pepper_is_found_and_replaced(channels, share, least, seed):
    clean = in_bytes(leaves(seed))[..., :channels]
    dirty, _ = with_salt_and_pepper(clean, share)

    impulses = estimate_impulses(dirty)
    mended, count = replace_impulses(dirty, impulses)

    assert impulses.confident
    assert impulses.share == pytest.approx(share, rel=0.3)
    assert psnr(mended, clean) > least
    assert count == pytest.approx(share * clean.numel(), rel=0.3)


def test_only_impulses_change():
    clean = in_bytes(leaves(1) * 0.8 + 0.1)
    dirty, where = with_salt_and_pepper(clean, 0.04)

    mended, _ = replace_impulses(dirty, estimate_impulses(dirty))

    assert torch.equal(mended[~where], clean[~where])
    assert float((mended[where] != dirty[where]).float().mean()) > 0.9


def test_salt_and_pepper_is_replaced_in_noise():
    noisy = in_bytes(leaves(2) + 15 / 255 * noise(leaves(2)))
    dirty, where = with_salt_and_pepper(noisy, 0.04)

    mended, _ = replace_impulses(dirty, estimate_impulses(dirty))

    error = (mended.float() - noisy.float())[where]
    assert float(error.square().mean().sqrt()) < 3 * 15


@pytest.mark.parametrize("share", [0.0005, 0.005])
def test_hot_pixels_are_found_beside_stars(share):
    sky = stars(1.4)
    hot = torch.rand(sky.shape, generator=generator(1)) < share
    dirty = torch.where(hot, sky + 1000 + 4000 * torch.rand(sky.shape, generator=generator(2)), sky)

    impulses = estimate_impulses(dirty)
    mended, _ = replace_impulses(dirty, impulses)

    assert impulses.share == pytest.approx(float(hot.float().mean()), rel=0.2)
    changed = mended != dirty
    assert float(changed[hot].float().mean()) > 0.85
    assert float(changed[~hot].float().mean()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float32])
def test_the_range_of_the_samples_does_not_matter(dtype):
    clean = in_bytes(leaves(0))
    dirty, _ = with_salt_and_pepper(clean, 0.02)
    scaled = (dirty.float() * 257).to(torch.uint16) if dtype == torch.uint16 else dirty.float() / 127.5 - 1

    impulses, expected = estimate_impulses(scaled), estimate_impulses(dirty)
    mended, count = replace_impulses(scaled, impulses)

    assert mended.dtype == dtype
    assert impulses.share == pytest.approx(expected.share, rel=0.1)
    assert count == pytest.approx(replace_impulses(dirty, expected)[1], rel=0.05)


def test_each_channel_is_judged_alone():
    dirty = in_bytes(leaves(0)).clone()
    dirty[..., 1] = with_salt_and_pepper(dirty[..., 1:2], 0.02)[0][..., 0]

    found = [channel.any for channel in estimate_impulses(dirty).channels]

    assert found == [False, True, False]


def page():
    lines = [text.TextLine(16 * n, 13, f"Line {n}, i.e. some words: {n * n}; ... . i j") for n in range(16)]
    return in_bytes(1 - 0.9 * text.render(lines, 256, 320).unsqueeze(2))


def chessboard():
    row, column = torch.arange(256).view(-1, 1, 1), torch.arange(256).view(-1, 1)
    return ((row + column) % 2 * 255).to(torch.uint8)


def counts(mean, gain=1, read=0.0):
    light = torch.poisson(torch.full((256, 256, 1), mean), generator=generator())
    return (100 + gain * light + read * torch.randn(light.shape, generator=generator(1))).round().to(torch.uint16)


CLEAN = {
    **{f"leaves {seed}": lambda seed=seed: in_bytes(leaves(seed)) for seed in range(4)},
    **{
        f"leaves in noise of {sigma}": lambda sigma=sigma: in_bytes(leaves(0) + sigma / 255 * noise(leaves(0)))
        for sigma in (5, 25, 50)
    },
    **{f"patterns {seed}": lambda seed=seed: patterns(256, 256, generator(seed)) for seed in range(4)},
    **{f"stars of {spread}": lambda spread=spread: stars(spread) for spread in (0.8, 1.0, 1.4)},
    **{f"{mean} photons": lambda mean=mean: counts(mean) for mean in (0.1, 0.5, 1.0, 3.0, 6.0)},
    "photons and read noise": lambda: counts(0.1, 20, 2.0),
    "page": page,
    "chessboard": chessboard,
    "constant": lambda: torch.full((64, 64, 1), 7, dtype=torch.uint8),
    "tiny": lambda: torch.zeros(5, 9, 3),
}


@pytest.mark.parametrize("name", CLEAN)
def test_other_images_have_no_impulses(name):
    samples = CLEAN[name]()

    impulses = estimate_impulses(samples)

    assert not impulses.confident
    assert impulses.share == 0
    assert replace_impulses(samples, impulses) == (samples, 0)


@needs_kodak
def test_kodak_has_impulses_only_where_they_were_added():
    for file in sorted((DATA / "kodak24").glob("*.png"))[::3]:
        clean = read_rgb(file)
        dirty, _ = with_salt_and_pepper(clean, 0.04)

        assert not estimate_impulses(clean).confident
        assert psnr(replace_impulses(dirty, estimate_impulses(dirty))[0], clean) > 26


@needs_polyu
def test_real_cameras_have_no_impulses():
    for file in sorted((DATA / "polyu").glob("*_real.JPG"))[::10]:
        assert not estimate_impulses(read_rgb(file)).confident
