"""Fixtures for the commands: the command itself, weights and images."""

import numpy as np
import pytest
import torch
from PIL import Image

from engine.models import checkpoint
from engine.models.networks import UNetConfig, build_network
from service import cli


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A weights file whose network returns its input."""
    path = tmp_path_factory.mktemp("weights") / "plain.safetensors"
    spec = UNetConfig((8,), (1,))
    checkpoint.save(path, build_network(spec, torch.Generator().manual_seed(0)), spec, {"psnr": "31.50"})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three images of 40 x 40."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        samples = np.random.default_rng(seed).integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(samples).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def denoise(capsys):
    """denoise(*args): runs the command and returns its exit code, stdout and stderr."""

    def run(*args):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(arg) for arg in args])
        return stopped.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def pixels():
    """pixels(path): the samples of an image file."""

    def read(path):
        with Image.open(path) as image:
            return np.asarray(image)

    return read
