"""A file's way through the service, without HTTP."""

import asyncio

from PIL import Image

from service.denoising import Denoiser
from service.models import Shelf
from service.network import Network
from service.schedule import Schedule
from service.settings import Settings
from service.wishes import Wishes


async def nobody_leaves():
    await asyncio.Event().wait()


def test_the_share_and_the_pixels_that_are_told_are_those_of_all_pages(tmp_path, save_tiny, file_of):
    save_tiny(tmp_path / "photo.safetensors")
    settings = Settings(weights=tmp_path, model="photo", device="cpu", precision="float32")
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "white", "blue", "black")]
    body = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    spent, shares, shelf = [], [], Shelf(settings)

    with Network() as network:
        denoiser = Denoiser(lambda: shelf.models, Schedule(network), settings)
        asyncio.run(denoiser.file(body, Wishes(), "png", nobody_leaves, spent.append, shares.append))

    assert spent == [4 * 9 * 7]
    assert shares == [0.25, 0.5, 0.75, 1.0]
