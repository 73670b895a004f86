"""Fixtures that several tests share: small images, a tiny network in a weights file, files made of images."""

import io

import pytest
import torch
from PIL import Image

from engine.imageio.sandbox import decoder
from engine.imageio.sandbox.fork_server import ForkServer
from engine.layers import parameters
from engine.models import checkpoint
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.postgres import running_postgres
from tests.support.s3 import running_s3

# What is small runs best on one thread, all the more where other work runs beside the tests.
torch.set_num_threads(1)

TINY = UNetConfig(channels=(8, 16), blocks=(1, 1, 1))


class Shared(ForkServer):
    """One for all applications that the tests make: to load the codecs takes a second or more."""

    def close(self):
        pass


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests, and the processes that they start, leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_fork_server():
    made = []

    def shared():
        if not made:
            made.append(Shared())
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "ForkServer", shared)
        yield
    for server in made:
        super(Shared, server).close()


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server. A test that stops it starts it again."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def s3():
    """A server with S3's interface. A test that stops it starts it again, without its buckets."""
    with running_s3() as server:
        yield server


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def samples():
    """samples(height, width, channels=3): uint8 pixels, smooth enough for JPEG to keep, the same each time."""

    def make(height, width, channels=3, seed=0):
        rng = torch.Generator().manual_seed(seed)
        y, x = torch.arange(height).view(-1, 1, 1), torch.arange(width).view(1, -1, 1)
        slope = torch.rand(2, channels, generator=rng) * 5
        noise = torch.randint(0, 40, (height, width, channels), generator=rng)
        waves = 100 + 60 * torch.sin(y * slope[0] / 9) + 50 * torch.cos(x * slope[1] / 7)
        return (waves + noise).clamp(0, 255).to(torch.uint8).numpy()

    return make


@pytest.fixture(scope="session")
def file_of():
    """file_of(image or pixels, kind, **Pillow's options): the bytes of an image file."""

    def make(image, kind="PNG", **options):
        image = image if isinstance(image, Image.Image) else Image.fromarray(image.squeeze())
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def save_tiny():
    """save_tiny(path, seed=0): the weights of a tiny network that changes every image a little."""

    def save(path, seed=0, **metadata):
        rng = torch.Generator().manual_seed(seed)
        net = build_network(TINY, rng)
        for parameter in parameters(net):
            parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng) * 0.08
        checkpoint.save(path, net, TINY, metadata)
        return path

    return save


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_tiny):
    """Weights to be served: `photo`, and `scans`, which makes other images."""
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors", seed=0, recipe="tiny")
    save_tiny(folder / "scans.safetensors", seed=1)
    return folder
