"""Fixtures of batches: a network, its weights, a folder of images, a watched folder, and a bucket."""

import io
import secrets

import pytest
import torch
from PIL import Image

from engine.models import checkpoint
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.bucket_server import bucket_server
from tests.support.images import gradient

CONFIG = UNetConfig((8,), (1,))


@pytest.fixture(scope="module")
def net():
    """An untrained network returns its input."""
    return build_network(CONFIG, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "plain.safetensors"
    checkpoint.save(path, net, CONFIG, {})
    return path


@pytest.fixture
def shots(tmp_path):
    """A folder with a.png and b.jpg."""
    folder = tmp_path / "shots"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(gradient()).save(folder / name)
    return folder


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


@pytest.fixture
def clean(tmp_path):
    return tmp_path / "clean"


@pytest.fixture
def drop(scans, tmp_path):
    """drop(name, brightness): renames a new image into the folder."""

    def rename(name, brightness=100):
        made = tmp_path / f"on its way to {name}"
        Image.new("RGB", (20, 20), (brightness, 0, 0)).save(made)
        return made.rename(scans / name)

    return rename


@pytest.fixture(scope="session")
def buckets():
    with bucket_server() as made:
        yield made


@pytest.fixture
def bucket(buckets):
    """The name of an empty bucket."""
    return buckets.create(f"test-{secrets.token_hex(4)}")


@pytest.fixture(scope="session")
def png():
    """The bytes of an image."""
    file = io.BytesIO()
    Image.fromarray(gradient()).save(file, "PNG")
    return file.getvalue()
