import io

import pytest
import torch
from PIL import Image

from engine.data.noise.jpeg import TO_RGB, TO_YCC, through_jpeg


def image(height, width, seed=0):
    """Smooth colours, an edge and some noise, uint8."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.arange(height).view(-1, 1, 1), torch.arange(width).view(1, -1, 1)
    slope = torch.rand(2, 3, generator=rng) * 4
    waves = 120 + 70 * torch.sin(y * slope[0] / 9) + 50 * torch.cos(x * slope[1] / 7)
    waves[:, width // 3 :] -= 60
    noise = torch.randn(height, width, 3, generator=rng) * 6
    return (waves + noise).round().clamp(0, 255).to(torch.uint8)


def by_pillow(pixels, quality, half_chroma):
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality, subsampling=2 if half_chroma else 0)
    return torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8).view(pixels.shape)


def steps_of_255(images):
    return torch.equal(images, (images * 255).round() / 255)


@pytest.mark.parametrize("half_chroma", [False, True])
@pytest.mark.parametrize(("quality", "part"), [(20, 0.2), (60, 0.2), (75, 0.2), (90, 0.3), (98, 0.6)])
def test_the_result_is_that_of_pillows_jpeg(quality, part, half_chroma):
    # Sides that are no multiples of a block.
    pixels = image(150, 203)
    expected = by_pillow(pixels, quality, half_chroma).float()

    got = through_jpeg(pixels[None] / 255, torch.tensor([float(quality)]), half_chroma)[0] * 255

    # libjpeg's transform is of whole numbers: it rounds a frequency another way now and then.
    loss = (expected - pixels.float()).abs().mean()
    assert (got - expected).abs().mean() < part * loss
    assert abs((got - pixels.float()).square().mean() / (expected - pixels.float()).square().mean() - 1) < 0.03


def test_every_image_of_a_batch_has_a_quality_of_its_own():
    pixels = torch.stack([image(32, 48, seed) for seed in range(3)]) / 255
    qualities = torch.tensor([30.0, 70.0, 95.0])

    together = through_jpeg(pixels, qualities, True)

    for number in range(3):
        alone = through_jpeg(pixels[number : number + 1], qualities[number : number + 1], True)
        assert torch.equal(together[number : number + 1], alone)


@pytest.mark.parametrize("half_chroma", [False, True])
def test_a_cropped_image_keeps_the_blocks_of_the_larger_one(half_chroma):
    pixels, quality = image(64, 64)[None] / 255, torch.tensor([50.0])
    whole = through_jpeg(pixels, quality, half_chroma)

    cut = through_jpeg(pixels[:, 5:48, 11:48], quality, half_chroma, (5, 11))

    # Blocks that the cut goes through are others; chroma's reach one pixel beyond their own.
    assert torch.equal(cut[:, 12:40, 6:34], whole[:, 17:45, 17:45])


@pytest.mark.parametrize("half_chroma", [False, True])
def test_one_colour_stays_as_it_is(half_chroma):
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.2, 0.2, 0.2]])
    pixels = colours.view(3, 1, 1, 3).expand(3, 20, 20, 3)

    assert torch.equal(through_jpeg(pixels, torch.full((3,), 98.0), half_chroma), pixels)


def test_grey_stays_grey():
    pixels = (image(40, 40)[..., 1:2] / 255).expand(40, 40, 3)[None]

    back = through_jpeg(pixels, torch.tensor([40.0]), True)

    assert torch.equal(back[..., :1].expand_as(back), back)
    assert not torch.equal(back, pixels)


def test_any_input_comes_back_as_8_bits_and_is_not_changed():
    pixels = torch.randn(2, 13, 9, 3, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()

    back = through_jpeg(pixels, torch.tensor([60.0, 98.0]), True, (3, 14))

    assert back.shape == pixels.shape
    assert steps_of_255(back)
    assert back.min() >= 0
    assert back.max() <= 1
    assert torch.equal(pixels, before)


def test_the_two_matrices_of_colours_undo_each_other():
    back = torch.tensor(TO_RGB, dtype=torch.float64) @ torch.tensor(TO_YCC, dtype=torch.float64)

    torch.testing.assert_close(back, torch.eye(3, dtype=torch.float64), rtol=0, atol=2e-6)
