"""Random pixels from a seed, and the image files made of them."""

import torch
from PIL import Image


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_pixels(height, width, seed=0, channels=3):
    """uint8 (height, width, channels)."""
    return torch.randint(256, (height, width, channels), generator=generator(seed), dtype=torch.uint8)


def write_image(path, pixels):
    """Write pixels, uint8 (H, W, 3), as an image file. Makes its folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)


def count_colours(png):
    """How many colours an image file has."""
    with Image.open(png) as image:
        return len(image.convert("RGB").getcolors(2**24))
