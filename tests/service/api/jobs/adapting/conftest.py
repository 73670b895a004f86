"""A service that adapts: weights that return their input, a folder for temporary files, zips of noisy shots."""

import os
import shutil
import tempfile

import pytest
import torch

from engine.adaptation.start import CANDIDATES
from engine.models import checkpoint
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.service.api.jobs.adapting.adapt_client import shots_zip
from tests.support.bursts import photons
from tests.support.served import serving

CONFIG = UNetConfig((8,), (1,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights whose network returns its input, so there is much to gain."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("photo", "other"):
        net = build_network(CONFIG, torch.Generator().manual_seed(0))
        checkpoint.save(folder / f"{name}.safetensors", net, CONFIG, {})
    return folder


@pytest.fixture(scope="module")
def shipped(folder, tmp_path_factory):
    """A folder to import from, in which the shipped weights return their input too."""
    place = tmp_path_factory.mktemp("shipped")
    (place / "weights").mkdir()
    (place / "weights" / "__init__.py").touch()
    for name in CANDIDATES[1]:
        shutil.copyfile(folder / "photo.safetensors", place / "weights" / f"{name}.safetensors")
    return place


@pytest.fixture(scope="module")
def learnable():
    """Ten scenes with two shots each."""
    return shots_zip(photons(200), scenes=10)


@pytest.fixture(scope="module")
def few():
    """Four scenes with two shots each."""
    return shots_zip(photons(200), scenes=4)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def settings(settings, temporary, shipped, monkeypatch):
    # The process that trains has the import path of this one, which itself keeps the real weights.
    checkpoint.weights_folder()
    monkeypatch.syspath_prepend(shipped)
    limits = {"spool_bytes": 2**27, "max_batch_bytes": 2**25, "adapt_bytes": 2**25, "max_batch_files": 50}
    return settings.model_copy(update={"adapt": True, **limits})


@pytest.fixture
def serve(folder, settings, temporary, shipped):
    """serve(held=False): the service in a process of its own, always with the same jobs."""
    names = ("spool", "database", "blobs")
    env = {f"DENOISE_{name.upper()}": str(value) for name in names if (value := getattr(settings, name))}
    env |= {"DENOISE_ADAPT": "true", "DENOISE_LEASE_SECONDS": "2", "TMPDIR": str(temporary)}
    env["PYTHONPATH"] = os.pathsep.join([str(shipped), os.environ.get("PYTHONPATH", "")])
    return lambda held=False, **more: serving(folder, held=held, env={**env, **more})
