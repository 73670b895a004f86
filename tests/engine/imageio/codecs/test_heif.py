"""HEIC files."""

import io

import numpy as np
import pillow_heif
from PIL import Image as PILImage

from engine.imageio.read import decode, read


def test_a_heic_is_decoded_closely(samples):
    noisy = samples(64, 48) // 8 * 8
    file = io.BytesIO()
    pillow_heif.from_pillow(PILImage.fromarray(noisy)).save(file, quality=95, chroma=444)

    image = decode(file.getvalue())

    assert image.samples.shape == (64, 48, 3)
    assert np.abs(image.samples.numpy().astype(int) - noisy).mean() < 5


def test_of_several_images_only_the_main_one_is_read(samples):
    file = io.BytesIO()
    first, second = (PILImage.fromarray(samples(64, 48, seed=seed)) for seed in range(2))
    heif = pillow_heif.from_pillow(first)
    heif.add_from_pillow(second)
    heif.save(file, quality=95)

    back = read(file.getvalue())

    assert len(back.pages) == 1
    assert back.changed == ("without the other images of the file",)
