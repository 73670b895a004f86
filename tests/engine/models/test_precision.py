import pytest
import torch

from engine.inference.denoise import denoise_image
from engine.layers import parameters
from engine.models import precision
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.pixels import generator


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
