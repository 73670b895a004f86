"""Served models: read at the start, built and tried at their first use."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fastapi.testclient import TestClient

from engine.inference.sanity import check_network
from engine.models import checkpoint
from service import app
from service.problems import ProblemError
from service.registry import served_model
from service.registry.registry import ModelRegistry
from service.registry.served_model import ModelUnavailable, ServedModel
from service.settings import Settings
from tests.support.weights import faults, served, settle, with_weights


@pytest.fixture
def settings(folder, save_tiny):
    """Of a service with default `photo`, and `scans` besides."""
    save_tiny(folder / "scans.safetensors", seed=1)
    return Settings(weights=folder, model="photo", device="cpu", precision="float32")


@pytest.fixture
def checked(monkeypatch):
    """How many networks were tried so far."""
    nets = []
    monkeypatch.setattr(served_model, "check_network", lambda net: nets.append(net) or check_network(net))
    return nets


def model_of(path):
    return ServedModel(checkpoint.read(path), torch.device("cpu"), torch.float32)


def test_only_the_default_model_is_tried_at_the_start(settings, checked, digest):
    registry = ModelRegistry(settings)

    assert len(checked) == 1
    assert registry.models.tried == ["photo"]
    assert served(registry) == {"photo": digest(0), "scans": digest(1)}


def test_auto_needs_all_its_weights_at_the_start(settings, folder, save_tiny):
    for seed, name in enumerate(("photo-gaussian", "photo-grey", "photo-gaussian-large"), 2):
        save_tiny(folder / f"{name}.safetensors", seed=seed)

    registry = ModelRegistry(settings.model_copy(update={"model": "auto"}))

    assert registry.models.tried == ["photo", "photo-gaussian", "photo-grey"]


def test_other_weights_are_tried_at_their_first_use(settings, checked):
    models = ModelRegistry(settings).models
    pages = [torch.rand(40, 40, 3)]

    models.choose("scans", pages)
    models.choose("scans", pages)

    assert models.tried == ["photo", "scans"]
    assert len(checked) == 2


def test_weights_that_do_not_fit_are_found_at_the_start(settings, folder):
    (folder / "scans.safetensors").write_bytes(b"no tensors")

    registry = ModelRegistry(settings)

    assert "cannot load weights" in faults(registry)["scans.safetensors"]
    assert list(served(registry)) == ["photo"]


def test_threads_that_ask_at_once_build_one_network(file, monkeypatch):
    started, go_on, tried = threading.Barrier(4), threading.Event(), []

    def slowly(net):
        tried.append(net)
        assert go_on.wait(60)

    def use():
        started.wait(60)
        return model.model()

    monkeypatch.setattr(served_model, "check_network", slowly)
    model = model_of(file)
    with ThreadPoolExecutor(4) as pool:
        used = [pool.submit(use) for _ in range(4)]
        go_on.set()
        nets = {id(each.result().net) for each in used}

    assert len(tried) == len(nets) == 1


def test_a_network_that_fails_at_its_first_use_is_a_fault(settings, folder, save_tiny, checked):
    with_weights(3.0)(folder / "scans.safetensors", save_tiny)
    registry = ModelRegistry(settings)
    assert not faults(registry)

    for _ in range(2):
        with pytest.raises(ModelUnavailable, match=r"'scans' cannot be used: unusable weights: .*replace its"):
            registry.models.choose("scans", [torch.rand(40, 40, 3)])

    assert "unusable weights" in faults(registry)["scans.safetensors"]
    assert len(checked) == 2, "the default's, and one trial of the other"
    (folder / "scans.safetensors").touch()
    settle(registry)
    assert faults(registry), "the same bytes are still unusable"


def test_good_weights_replace_those_that_failed(settings, folder, save_tiny):
    with_weights(3.0)(folder / "scans.safetensors", save_tiny)
    registry = ModelRegistry(settings)
    with pytest.raises(ModelUnavailable):
        registry.models.choose("scans", [torch.rand(40, 40, 3)])

    save_tiny(folder / "scans.safetensors", seed=2)
    settle(registry)

    assert not faults(registry)
    assert registry.models.tried == ["photo", "scans"]
    with pytest.raises(ProblemError, match=r"previous weights: unusable weights: .*\.$") as refused:
        registry.roll_back("scans")
    assert refused.value.status == 422


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_lack_of_memory_at_the_first_use_is_tried_again(error, file, monkeypatch, caplog):
    def short(net):
        raise error

    model = model_of(file)
    with monkeypatch.context() as patch:
        patch.setattr(served_model, "check_network", short)
        with pytest.raises(ModelUnavailable, match=r"'photo' cannot be loaded now: .* Try again later") as caught:
            model.model()

    assert caught.value.headers["Retry-After"]
    assert "model cannot be loaded" in caplog.text
    assert model.model().digest == model.digest


def test_a_removed_file_is_served_before_its_first_use(settings, folder, digest):
    registry = ModelRegistry(settings)
    (folder / "scans.safetensors").unlink()
    settle(registry)

    model, _ = registry.models.choose("scans", [torch.rand(40, 40, 3)])

    assert model.digest == digest(1)


def test_a_rollback_tries_weights_that_nothing_has_used(settings, folder, save_tiny, digest):
    registry = ModelRegistry(settings)
    save_tiny(folder / "scans.safetensors", seed=3)
    settle(registry)

    registry.roll_back("scans")

    assert served(registry)["scans"] == digest(1)
    assert "scans" in registry.models.tried


def test_activate_tries_served_weights(settings):
    registry = ModelRegistry(settings)

    registry.activate("scans")

    assert registry.models.tried == ["photo", "scans"]


def test_the_decoder_loads_its_codecs_while_the_weights_are_loaded(settings, monkeypatch):
    events = []
    for method in ("__init__", "__exit__"):
        monkeypatch.setattr(app.Decoder, method, lambda *args, method=method: events.append(method))
    monkeypatch.setattr(
        app, "ModelRegistry", lambda settings, shared: events.append("weights") or ModelRegistry(settings)
    )

    app.create_app(settings)
    with pytest.raises(ValueError, match="the default model needs this file"):
        app.create_app(settings.model_copy(update={"model": "films"}))

    assert events == ["__init__", "weights", "__init__", "weights", "__exit__"]


def test_health_shows_what_was_tried_and_a_failure_is_503(settings, folder, save_tiny, samples, file_of):
    with_weights(3.0)(folder / "films.safetensors", save_tiny)
    image = file_of(samples(20, 30))
    with TestClient(app.create_app(settings), base_url="http://127.0.0.1") as client:
        before = client.get("/health").json()
        answer = client.post("/denoise", params={"model": "scans"}, content=image)
        refused = client.post("/denoise", params={"model": "films"}, content=image)
        after = client.get("/health").json()

    assert before["tried"] == ["photo"]
    assert answer.status_code == 200
    assert refused.status_code == 503
    assert "'films' cannot be used: unusable weights" in refused.json()["detail"]
    assert after["tried"] == ["photo", "scans"]
    assert [fault["file"] for fault in after["faults"]] == ["films.safetensors"]
