"""Fixtures of the registry tests: a weights folder and its registry."""

import pytest

from engine.models import checkpoint
from service.registry.registry import ModelRegistry
from service.settings import Settings


@pytest.fixture
def folder(tmp_path, save_tiny):
    save_tiny(tmp_path / "weights" / "photo.safetensors", seed=0)
    return tmp_path / "weights"


@pytest.fixture
def file(folder):
    return folder / "photo.safetensors"


@pytest.fixture
def registry(folder):
    return ModelRegistry(Settings(weights=folder, model="photo", device="cpu", precision="float32"))


@pytest.fixture
def digest(tmp_path, save_tiny):
    """digest(seed): of the tiny network's file."""
    return lambda seed: checkpoint.load(save_tiny(tmp_path / f"{seed}.safetensors", seed=seed)).digest
