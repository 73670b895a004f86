"""`denoise publish`."""

import pytest
from typer.testing import CliRunner

from engine.models import checkpoint
from service import cli
from service.auth.api_keys import add_key
from service.registry.registry import ModelRegistry
from service.registry.shared_weights import SharedWeights
from service.settings import Settings
from service.storage.storage import open_storage
from tests.support.browser import served
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


# To a URL


@pytest.fixture
def running(tmp_path, save_tiny):
    """(address, admin key, weights folder) of a service."""
    folder, keys = tmp_path / "served", tmp_path / "keys.json"
    save_tiny(folder / "photo.safetensors", seed=0)
    admin = add_key(keys, "boss", admin=True)
    with served(
        Settings(weights=folder, model="photo", device="cpu", precision="float32", keys_file=keys)
    ) as url:
        yield url, admin, folder


def test_a_running_service_gets_the_weights(running, tmp_path, save_tiny, monkeypatch):
    url, admin, folder = running
    file = save_tiny(tmp_path / "mine.safetensors", seed=1)
    monkeypatch.setenv("DENOISE_API_KEY", admin)

    answer = publish(file, "--url", url)

    assert answer.exit_code == 0
    assert f"{url} serves mine with SHA-256 {checkpoint.read(file).digest}" in answer.stdout
    assert (folder / "mine.safetensors").read_bytes() == file.read_bytes()


def test_a_key_that_is_not_an_admins_is_refused(running, tmp_path, save_tiny):
    url, _, folder = running
    other = add_key(tmp_path / "keys.json", "web")
    file = save_tiny(tmp_path / "mine.safetensors", seed=1)

    assert "has no API key" in str(publish(file, "--url", url).exception)
    assert "'web' is not an admin key" in str(publish(file, "--url", url, "--key", other).exception)
    assert not (folder / "mine.safetensors").exists()


@pytest.mark.parametrize("name", ["auto", "../photo", ".hidden", "two words"])
def test_a_name_that_no_service_takes_is_refused(name, tmp_path, save_tiny):
    answer = publish(save_tiny(tmp_path / "mine.safetensors"), "--name", name, "--url", "http://here")

    assert f"the name {name!r}" in str(answer.exception)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nowhere", "http://[::bad"])
def test_a_url_without_a_service_is_an_error(url, tmp_path, save_tiny):
    answer = publish(save_tiny(tmp_path / "mine.safetensors"), "--url", url)

    assert str(answer.exception).startswith(f"{url} cannot be reached: ")


def test_other_weights_than_were_sent_are_an_error(tmp_path, save_tiny, monkeypatch):
    monkeypatch.setattr("service.cli.publish._ask", lambda *_, **__: {"digests": {"mine": "abc"}})

    answer = publish(save_tiny(tmp_path / "mine.safetensors"), "--url", "http://here")

    assert "http://here serves mine with SHA-256 abc, but the file has" in str(answer.exception)


def test_without_a_database_the_error_names_the_settings(tmp_path, save_tiny):
    result = publish(save_tiny(tmp_path / "mine.safetensors"))

    assert "DENOISE_DATABASE and DENOISE_BLOBS are not set" in str(result.exception)
