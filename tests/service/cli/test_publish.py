"""`denoise publish`."""

import pytest
from typer.testing import CliRunner

from service import cli
from service.registry.registry import ModelRegistry
from service.registry.shared_weights import SharedWeights
from service.settings import Settings
from service.storage.storage import open_storage
from tests.support.weights import INVALID


@pytest.fixture
def variables(postgres, tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISE_DATABASE", postgres.new_database())
    monkeypatch.setenv("DENOISE_BLOBS", (tmp_path / "blobs").as_uri())


def publish(*args):
    return CliRunner().invoke(cli.app, ["publish", *map(str, args)])


def test_replicas_serve_what_was_published(variables, tmp_path, save_tiny):
    file = save_tiny(tmp_path / "mine.safetensors", seed=1)
    save_tiny(tmp_path / "weights" / "photo.safetensors", seed=0)
    storage = open_storage(Settings())
    settings = Settings(weights=tmp_path / "weights", model="photo", device="cpu", precision="float32")
    registry = ModelRegistry(settings, SharedWeights(storage))
    old = registry.models.by_name["photo"].digest

    assert publish(file).exit_code == 0
    answer = publish(file, "--name", "photo")
    registry.refresh()

    new = registry.models.by_name["mine"].digest
    assert f"photo with SHA-256 {new}" in answer.stdout
    assert registry.models.history("photo")["digests"] == {"photo": new}
    assert registry.models.history("photo")["previous"] == {"photo": old}
    storage.close()


@pytest.mark.parametrize(("write", "reason"), INVALID)
def test_an_unusable_file_is_not_published(write, reason, variables, tmp_path, save_tiny):
    file = tmp_path / "bad.safetensors"
    write(file, save_tiny)

    result = publish(file)

    assert reason in str(result.exception)
    storage = open_storage(Settings())
    assert SharedWeights(storage).wanted() == {}
    storage.close()


@pytest.mark.parametrize("name", ["auto", "../photo", "a\nb"])
def test_a_name_that_cannot_be_served_is_refused(name, variables, tmp_path, save_tiny):
    result = publish(save_tiny(tmp_path / "mine.safetensors"), "--name", name)

    assert str(result.exception) == f"weights cannot have the name {name!r}"


def test_without_a_database_the_error_names_the_settings(tmp_path, save_tiny):
    result = publish(save_tiny(tmp_path / "mine.safetensors"))

    assert "DENOISE_DATABASE and DENOISE_BLOBS are not set" in str(result.exception)
