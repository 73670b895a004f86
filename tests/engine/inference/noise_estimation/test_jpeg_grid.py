import pytest
import torch

from engine.imageio.read import read_rgb
from engine.inference.noise_estimation import estimate_noise
from tests.support.noise import DATA, as_jpeg, in_8_bits, leaves, needs_kodak, noise


@pytest.mark.parametrize("sigma", [0, 5, 25])
@pytest.mark.parametrize("quality", [30, 60, 85, 92])
def test_a_jpeg_grid_is_found_in_noise_and_at_any_offset(sigma, quality):
    clean = leaves()
    image = as_jpeg(clean + sigma / 255 * noise(clean), quality)

    assert estimate_noise(image).jpeg_blocks
    assert estimate_noise(image[3:, 5:]).jpeg_blocks
    assert estimate_noise(image.mean(2, keepdim=True) if sigma == 0 else image.rot90()).jpeg_blocks


def chessboard(side):
    row, column = torch.arange(256).view(-1, 1, 1) // side, torch.arange(256).view(-1, 1) // side
    return (0.8 * ((row + column) % 2)).expand(-1, -1, 3).contiguous()


@pytest.mark.parametrize(
    "image",
    [
        leaves(),
        in_8_bits(leaves() + 25 / 255 * noise(leaves())),
        in_8_bits(leaves()[:40, :40].repeat_interleave(8, 0).repeat_interleave(8, 1)),
        (leaves() * 4).round() / 4,
        as_jpeg(leaves(), 60).unflatten(0, (160, 2)).mean(1).unflatten(1, (160, 2)).mean(2),
        *map(chessboard, (1, 5, 8)),
    ],
    ids=["clean", "noisy", "enlarged", "of few values", "JPEG made smaller", "1", "5", "8"],
)
def test_other_images_have_no_jpeg_grid(image):
    assert not estimate_noise(image).jpeg_blocks


@needs_kodak
def test_kodak_has_a_jpeg_grid_only_after_compression():
    for number in (1, 5, 8, 13, 20, 23):
        clean = read_rgb(DATA / "kodak24" / f"kodim{number:02}.png").float() / 255

        assert not estimate_noise(clean).jpeg_blocks
        assert all(estimate_noise(as_jpeg(clean, quality)).jpeg_blocks for quality in (40, 75, 85, 95))
