import errno
import hashlib
import json
import os

import pytest
import safetensors.torch
import torch

from engine.layers import parameters
from engine.models import checkpoint
from engine.models.autoencoder import AutoencoderConfig
from engine.models.checkpoint import WeightsError
from engine.models.networks import build_network, config_to_dict
from engine.models.unet import UNetConfig

CONFIG = UNetConfig((4, 6), (1, 1, 1))
NAME = "0.1.weight"


@pytest.fixture
def net():
    net, rng = build_network(CONFIG), torch.Generator().manual_seed(0)
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng)
    return net


@pytest.fixture
def path(tmp_path, net):
    path = tmp_path / "small.safetensors"
    checkpoint.save(path, net, CONFIG, {"steps": "12", "data": "none"})
    return path


def rewrite(path, change):
    """Change the tensors and metadata of the file."""
    tensors, metadata = safetensors.torch.load_file(path), metadata_of(path)
    change(tensors, metadata)
    path.write_bytes(safetensors.torch.save(tensors, metadata))


def metadata_of(path):
    with safetensors.safe_open(path, "pt") as opened:
        return opened.metadata()


# Saving and loading


@pytest.mark.parametrize("config", [CONFIG, AutoencoderConfig(4), AutoencoderConfig(4, "text")])
def test_a_saved_network_loads_to_the_same_output(tmp_path, config):
    net = build_network(config, torch.Generator().manual_seed(3))
    x = torch.rand(1, 8, 8, 3)
    checkpoint.save(tmp_path / "a.safetensors", net, config, {})

    model = checkpoint.load(tmp_path / "a.safetensors")

    assert model.config == config
    assert torch.equal(model.net.forward(x), net.forward(x))


def test_a_model_knows_its_name_file_and_metadata(path):
    model = checkpoint.load(path)

    assert (model.name, model.path) == ("small", path)
    assert model.metadata["steps"] == "12"
    assert model.metadata["data"] == "none"
    assert model.metadata["format"] == checkpoint.FORMAT
    assert json.loads(model.metadata["network"]) == config_to_dict(CONFIG) | {
        "channels": [4, 6],
        "blocks": [1, 1, 1],
    }


def test_the_digest_is_that_of_the_file(path):
    assert checkpoint.load(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_other_weights_have_another_digest(path, net):
    before = checkpoint.load(path).digest
    next(parameters(net)).value[0, 0] += 1

    checkpoint.save(path, net, CONFIG, {"steps": "12", "data": "none"})

    assert checkpoint.load(path).digest != before


def test_the_caller_chooses_the_type_of_products(path):
    model = checkpoint.load(path, compute=torch.bfloat16)

    assert model.net.dtype == torch.bfloat16
    assert {parameter.value.dtype for parameter in parameters(model.net)} == {torch.float32}


def test_a_float16_file_is_loaded_as_float32(path):
    rewrite(path, lambda tensors, _: tensors.update({NAME: tensors[NAME].half()}))

    assert {parameter.value.dtype for parameter in parameters(checkpoint.load(path).net)} == {torch.float32}


def test_a_float16_file_has_half_the_size_and_records_its_type(path, net):
    half = path.with_name("half.safetensors")

    checkpoint.save(half, net, CONFIG, {}, torch.float16)

    model = checkpoint.load(half)
    assert half.stat().st_size < 0.6 * path.stat().st_size
    assert {tensor.dtype for tensor in safetensors.torch.load_file(half).values()} == {torch.float16}
    assert (model.metadata["dtype"], checkpoint.load(path).metadata["dtype"]) == ("float16", "float32")
    for read, written in zip(parameters(model.net), parameters(net), strict=True):
        assert torch.equal(read.value, written.value.half().float())


def test_a_rounded_network_equals_the_loaded_file(path, net):
    checkpoint.save(path, net, CONFIG, {}, torch.float16)
    x = torch.rand(1, 8, 8, 3)

    assert torch.equal(
        checkpoint.rounded(net, CONFIG, torch.float16).forward(x), checkpoint.load(path).net.forward(x)
    )


def test_values_too_large_for_float16_are_refused(tmp_path, net):
    next(parameters(net)).value[0, 0] = 1e6
    name = next(parameters(net)).name

    with pytest.raises(ValueError, match=rf"float16 cannot hold the values of {name};"):
        checkpoint.save(tmp_path / "a.safetensors", net, CONFIG, {}, torch.float16)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equal_networks_make_equal_files_in_any_metadata_order(tmp_path, net, dtype):
    about = {f"key {n}": f"σ {n}" for n in range(20)}
    files = [tmp_path / f"{n}.safetensors" for n in range(4)]

    for file in files:
        checkpoint.save(file, net, CONFIG, about, dtype)
        about = dict(reversed(about.items()))

    assert len({file.read_bytes() for file in files}) == 1
    assert metadata_of(files[0]).items() >= about.items()
    held = safetensors.torch.load_file(files[0])
    assert all(torch.equal(held[parameter.name], parameter.value.to(dtype)) for parameter in parameters(net))


def test_the_folder_of_shipped_weights_is_found():
    assert checkpoint.weights_folder().is_dir()
    assert checkpoint.weights_folder().name == "weights"


def test_a_failed_save_keeps_the_old_file(path, net, monkeypatch):
    before = path.read_bytes()
    next(parameters(net)).value[0, 0] += 1

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, net, CONFIG, {})

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# Files that are refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop(NAME), f"{NAME} is missing$"),
        (lambda t, m: t.update(extra=torch.zeros(2)), "extra is unexpected$"),
        (lambda t, m: t.update({NAME: t[NAME][:7]}), rf"{NAME} has shape \(7, 4\) instead of \(108, 4\)$"),
        (lambda t, m: t[NAME][3, 1].fill_(float("nan")), f"{NAME} has values that are not finite numbers$"),
        (lambda t, m: t[NAME][3, 1].fill_(float("inf")), f"{NAME} has values that are not finite numbers$"),
        (lambda t, m: t.update({NAME: t[NAME].int()}), f"{NAME} has values that are not finite numbers$"),
        (lambda t, m: t.update(a=t.pop(NAME)), f"{NAME} is missing; a is unexpected$"),
        (lambda t, m: m.update(format="denoise-9"), "format 'denoise-9'; this version reads 'denoise-1'$"),
        (lambda t, m: m.pop("format"), "format None; this version reads 'denoise-1'$"),
        (lambda t, m: m.pop("network"), "a network's kind is one of paper, photo; got None$"),
        (lambda t, m: m.update(network="{"), "cannot load weights: "),
        (lambda t, m: m.update(network="[1]"), "cannot load weights: "),
        (lambda t, m: m.update(network='{"kind": "unet"}'), "kind is one of paper, photo; got 'unet'$"),
        (lambda t, m: m.update(network='{"kind": "photo", "depth": 3}'), "photo networks take .*; got depth$"),
        (lambda t, m: m.update(network='{"kind": "photo", "channels": 3}'), "cannot load weights: "),
        (
            lambda t, m: m.update(network='{"kind": "photo", "channels": [8, 6], "blocks": [1, 1, 1]}'),
            "has shape",
        ),
        (lambda t, m: m.update(network='{"kind": "paper", "hidden": 4}'), "0.0.weight is missing"),
    ],
)
def test_an_unusable_file_is_refused_with_the_reason(path, change, message):
    rewrite(path, change)

    with pytest.raises(WeightsError, match=message) as caught:
        checkpoint.load(path)

    assert str(caught.value).startswith(f"{path}: ")


def test_all_faults_are_named_at_once(path):
    def change(tensors, _):
        del tensors["0.1.weight"], tensors["0.2.0.weight"]
        tensors["extra"] = torch.zeros(1)

    rewrite(path, change)

    with pytest.raises(
        WeightsError, match=r"0.1.weight is missing; 0.2.0.weight is missing; extra is unexpected"
    ):
        checkpoint.load(path)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(path, size):
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(WeightsError, match="cannot load weights"):
        checkpoint.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"none.safetensors: cannot load weights: .*No such file"):
        checkpoint.load(tmp_path / "none.safetensors")
