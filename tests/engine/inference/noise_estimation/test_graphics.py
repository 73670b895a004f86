import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import text
from engine.imageio.read import read_rgb
from engine.inference.noise_estimation.graphics import graphics_kind, is_computer_drawn
from tests.support.noise import DATA, as_jpeg, generator, in_8_bits, leaves, needs_kodak, needs_polyu, noise

FAULTS = DATA.parent / "faults"


def in_bytes(image):
    return (255 * image).round().clamp(0, 255).to(torch.uint8)


def page(paper=0.94, ink=0.1):
    lines = [text.TextLine(16 * n, 13, f"Line {n} of some words, and a number: {n * n}") for n in range(16)]
    return in_bytes(paper + (ink - paper) * text.render(lines, 256, 320).unsqueeze(2))


def blocks_of_colours(side):
    colours = torch.randint(256, (8, 3), generator=generator(), dtype=torch.uint8)
    chosen = colours[torch.randint(8, (24, 30), generator=generator(1))]
    return chosen.repeat_interleave(side, 0).repeat_interleave(side, 1)


def slope(down, across, dtype):
    row, column = torch.arange(200).view(-1, 1, 1), torch.arange(300).view(-1, 1)
    return (20 + down * row + across * column).round().to(dtype)


def counts(mean, dtype=torch.uint16, gain=1.0):
    return (gain * torch.poisson(torch.full((256, 256, 1), mean), generator=generator())).round().to(dtype)


def halftone(image):
    return (image[..., :1] > torch.rand(*image.shape[:2], 1, generator=generator())).float()


def thermal(sigma):
    return (29500 + sigma * torch.randn(200, 200, 1, generator=generator())).round().to(torch.uint16)


def in_levels(count):
    return in_bytes((in_8_bits(leaves() + 8 / 255 * noise(leaves())) * count).round() / count)


DRAWN = {
    "page": (page, "palette"),
    "coloured page": (lambda: torch.cat((page(), page(0.8, 0.3), page(0.1, 0.8)), 2), "palette"),
    "line art": (lambda: (page() > 128).to(torch.uint8) * 255, "two-valued"),
    "halftone": (
        lambda: (leaves()[..., :1] > torch.rand(320, 320, 1, generator=generator())).float(),
        "two-valued",
    ),
    "pixel art": (lambda: blocks_of_colours(8), "palette"),
    "small pixel art": (lambda: blocks_of_colours(2), "palette"),
    "gradient": (lambda: slope(0.21, 0.3, torch.uint8), "palette"),
    "16-bit gradient": (lambda: slope(33.1, 91.7, torch.uint16), "computer-drawn"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_computer_drawing_is_recognised(name):
    make, kind = DRAWN[name]

    assert graphics_kind(make()) == kind


def letterbox():
    image = torch.zeros(500, 320, 3, dtype=torch.uint8)
    image[90:410] = in_bytes(leaves(1))
    return image


NOT_DRAWN = {
    **{f"leaves {seed}": lambda seed=seed: in_bytes(leaves(seed)) for seed in range(4)},
    **{f"noise of {s}": lambda s=s: in_bytes(leaves() + s / 255 * noise(leaves())) for s in (1, 5, 50)},
    **{
        f"JPEG {quality}": lambda quality=quality: in_bytes(as_jpeg(leaves(), quality))
        for quality in (10, 50, 90)
    },
    **{f"{mean} photons": lambda mean=mean: counts(mean) for mean in (0.02, 0.1, 0.5, 2.0)},
    "photons of 8 bits": lambda: counts(0.5, torch.uint8),
    "float photons": lambda: counts(0.5).float() / 90,
    "single photons": lambda: (counts(0.05).int() > 0).to(torch.uint16),
    **{f"thermal {sigma}": lambda sigma=sigma: thermal(sigma) for sigma in (0.3, 0.5, 0.9)},
    **{f"{count} levels": lambda count=count: in_levels(count) for count in (3, 7, 15)},
    "letterbox": letterbox,
    "noisy page": lambda: in_bytes(page().float() / 255 + 2 / 255 * noise(page())),
    "saturated": lambda: in_bytes(2 * leaves()),
    "small": lambda: torch.zeros(9, 200, 1),
}


@pytest.mark.parametrize("name", NOT_DRAWN)
def test_measured_images_are_not_drawings(name):
    assert graphics_kind(NOT_DRAWN[name]()) is None


def test_two_values_must_hold_in_the_whole_image():
    image = (torch.rand(1500, 1500, 1, generator=generator()) < 0.5).to(torch.uint8) * 255
    assert graphics_kind(image) == "two-valued"

    image[701, 703] = 9

    assert graphics_kind(image) is None


@pytest.mark.skipif(not FAULTS.is_dir(), reason="../shared/faults is missing")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pixel_art.png", "palette"),
        ("screenshot_text.png", "palette"),
        ("fax_g4_text.tif", "two-valued"),
        ("fax_g4_dither.tif", "two-valued"),
    ],
)
def test_graphics_that_were_changed_once_are_recognised(name, kind):
    mode = "L" if name.startswith("fax") else "RGB"
    values = np.array(Image.open(FAULTS / name).convert(mode))

    assert graphics_kind(torch.from_numpy(values.reshape(*values.shape[:2], -1))) == kind


@needs_kodak
def test_kodak_is_not_drawn():
    for file in sorted((DATA / "kodak24").glob("*.png")):
        assert not is_computer_drawn(read_rgb(file))


@needs_polyu
def test_averages_of_real_shots_are_not_drawn():
    for file in sorted((DATA / "polyu").glob("*_mean.JPG"))[::5]:
        assert not is_computer_drawn(read_rgb(file))
