import pytest
import torch

from engine.data.patterns import patterns
from engine.imageio.read import read_rgb
from engine.inference.noise_estimation.banding import estimate_banding, remove_banding
from tests.support.noise import DATA, generator, in_8_bits, leaves, needs_kodak, needs_polyu, noise


def cells(side=256):
    """Blurred discs on a dark ground, float (side, side, 1) from 0.02 to 1."""
    rng = generator(5)
    row, column = torch.arange(side).view(-1, 1), torch.arange(side)
    made = torch.zeros(side, side)
    for _ in range(25):
        y, x, size, light = torch.rand(4, generator=rng).tolist()
        size = 3 + 7 * size
        made += (0.3 + 0.7 * light) * (-((row - side * y) ** 2 + (column - side * x) ** 2) / (2 * size**2)).exp()
    return 0.02 + 0.98 * (made / made.max()).unsqueeze(2)


def offsets(length, seed=9):
    return torch.randn(length, 1, 1, generator=generator(seed))


@pytest.mark.parametrize("ratio", [0.5, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_row_offsets_are_found(ratio, seed):
    clean = leaves(seed)
    rows = ratio * 20 * offsets(len(clean))
    noisy = 255 * clean + 20 * noise(clean) + rows

    banding = estimate_banding(noisy)

    assert banding.rows == pytest.approx(ratio * 20, rel=0.3)
    assert banding.columns == 0


@pytest.mark.parametrize("ratio", [1, 2])
def test_offsets_of_a_sensor_are_removed(ratio):
    clean = 100 + 400 * cells()
    rows = ratio * 10 * offsets(256)
    noisy = clean + 10 * noise(clean) + rows
    samples = noisy.round().clamp(0, 65535).to(torch.uint16)

    mended = remove_banding(samples, estimate_banding(samples))

    left = (mended.float() - clean).mean((1, 2))
    assert float(left.std()) < 0.3 * float(rows.std())
    assert mended.dtype == torch.uint16


def test_columns_are_treated_as_rows_are():
    clean = 100 + 400 * cells()
    noisy = clean + 10 * noise(clean) + 10 * offsets(256)

    banding, turned = estimate_banding(noisy), estimate_banding(noisy.transpose(0, 1))

    assert (banding.rows, banding.columns) == (turned.columns, turned.rows)
    torch.testing.assert_close(
        remove_banding(noisy, banding), remove_banding(noisy.transpose(0, 1), turned).transpose(0, 1)
    )


def test_clipped_areas_stay_as_they_are():
    clean = leaves(1)
    noisy = 255 * clean + 10 * noise(clean) + 10 * offsets(len(clean))
    noisy[:100] = 255
    samples = noisy.round().clamp(0, 255).to(torch.uint8)

    mended = remove_banding(samples, estimate_banding(samples))

    assert torch.equal(mended[samples == 255], samples[samples == 255])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma", [0, 5, 25])
def test_images_have_no_banding(seed, sigma):
    clean = leaves(seed)
    image = in_8_bits(clean + sigma / 255 * noise(clean))

    banding = estimate_banding(image)

    assert not banding.confident
    assert remove_banding(image, banding) is image


@pytest.mark.parametrize("period", [2, 3, 7, 16])
def test_stripes_are_no_banding(period):
    stripes = (torch.arange(256) % period < period // 2).float().view(-1, 1, 1).expand(-1, 256, -1)

    assert not estimate_banding(100 + 20 * stripes + 5 * noise(stripes)).confident


@pytest.mark.parametrize("seed", range(6))
def test_patterns_and_pages_have_no_banding(seed):
    assert not estimate_banding(patterns(256, 256, generator(seed))).confident


@pytest.mark.parametrize("shape", [(8, 8, 1), (300, 20, 3), (20, 300, 1)])
def test_small_images_are_not_judged(shape):
    assert not estimate_banding(torch.rand(shape, generator=generator())).confident


@needs_kodak
def test_kodak_has_banding_only_where_it_was_added():
    for file in sorted((DATA / "kodak24").glob("*.png"))[::4]:
        clean = read_rgb(file).float()
        noisy = clean + 10 * noise(clean)

        assert not estimate_banding(clean).confident
        assert not estimate_banding(noisy).confident
        assert estimate_banding(noisy + 10 * offsets(len(clean))).rows == pytest.approx(10, rel=0.35)


@needs_polyu
def test_real_cameras_have_no_banding():
    for file in sorted((DATA / "polyu").glob("*_real.JPG"))[::10]:
        assert not estimate_banding(read_rgb(file)).confident
