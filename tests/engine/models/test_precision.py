"""Device and precision, and the cache of the measurement."""

import json
from pathlib import Path

import pytest
import torch

from engine.inference.denoise import denoise_image
from engine.layers import parameters
from engine.models import precision
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.pixels import generator


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The file of the cache, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / precision.CACHE_FILE


@pytest.fixture
def measured(monkeypatch):
    """The devices that were measured. The answer is always bfloat16."""
    devices = []
    monkeypatch.setattr(precision, "measure", lambda device: devices.append(str(device)) or torch.bfloat16)
    return devices


def fake_times(seconds, monkeypatch):
    """Replace the measurement by these seconds for each type."""
    monkeypatch.setattr(precision, "_least_seconds", lambda block, patch, repeats: seconds[patch.dtype])


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_named_precision_is_not_measured(name, dtype, monkeypatch):
    fake_times({}, monkeypatch)

    assert precision.resolve(name) == dtype
    assert precision.name_of(dtype) == name


@pytest.mark.parametrize(("half", "chosen"), [(1.0, torch.float32), (0.8, torch.float32), (0.5, torch.bfloat16)])
def test_auto_takes_bfloat16_only_where_it_is_much_faster(half, chosen, monkeypatch):
    fake_times({torch.float32: 1.0, torch.bfloat16: half}, monkeypatch)

    assert precision.resolve("auto") == chosen


def test_measuring_returns_one_of_the_types():
    assert precision.measure(repeats=1) in precision.TYPES.values()


def test_auto_is_measured_once_for_a_machine(measured, cache):
    assert [precision.resolve("auto") for _ in range(3)] == [torch.bfloat16] * 3

    assert measured == ["cpu"]
    assert list(json.loads(cache.read_text()).values()) == ["bfloat16"]


@pytest.mark.parametrize("changed", ["_processor", "__version__", "name"])
def test_auto_is_measured_again_on_a_new_processor_or_version(changed, measured, cache, monkeypatch):
    precision.resolve("auto")
    if changed == "__version__":
        monkeypatch.setattr(torch, "__version__", "9.0")
    else:
        place = precision if changed == "_processor" else precision.kernels
        monkeypatch.setattr(place, changed, lambda: "another")

    precision.resolve("auto")

    assert measured == ["cpu", "cpu"]
    assert len(json.loads(cache.read_text())) == 2, "the first machine's answer is kept: a home may be shared"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"x": {}}', b"null"])
def test_an_unreadable_cache_is_measured_again_and_replaced(content, measured, cache):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)

    assert precision.resolve("auto") == precision.resolve("auto") == torch.bfloat16

    assert measured == ["cpu"]


def test_a_cached_type_that_does_not_exist_is_measured_again(measured, cache):
    precision.resolve("auto")
    cache.write_text(cache.read_text().replace("bfloat16", "int4"))

    assert precision.resolve("auto") == torch.bfloat16
    assert measured == ["cpu", "cpu"]


def test_a_cache_that_cannot_be_written_is_no_error(measured, cache, monkeypatch):
    cache.parent.parent.write_text("a file in place of the folder")

    assert precision.resolve("auto") == torch.bfloat16


def test_a_user_without_a_home_folder_needs_no_cache(measured, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)

    assert precision.resolve("auto") == torch.bfloat16


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is one of auto, float32, bfloat16; got 'float16'"):
        precision.resolve("float16")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device is one of auto, cpu, cuda; got 'tpu'"):
        precision.pick_device("tpu")


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_prefers_a_gpu(there, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)

    assert precision.pick_device("auto") == torch.device(device)
    assert precision.pick_device("cpu") == torch.device("cpu")


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ValueError, match="device is cuda, but torch finds no GPU"):
        precision.pick_device("cuda")


def test_bfloat16_agrees_with_float32_to_50_db():
    exact, quick = (build_network(UNetConfig(), generator(), dtype) for dtype in precision.TYPES.values())
    image = torch.rand(64, 64, 3, generator=generator())
    # The network's residual has the strength of noise of sigma 25, as in use.
    tails = [list(parameters(net))[-1].value for net in (exact, quick)]
    drawn = torch.randn(tails[0].shape, generator=generator())
    tails[0].copy_(drawn)
    drawn *= (25 / 255) / (denoise_image(exact, image) - image).std()
    for tail in tails:
        tail.copy_(drawn)

    difference = denoise_image(exact, image) - denoise_image(quick, image)

    assert -10 * difference.square().mean().log10() > 50
    assert difference.any()
