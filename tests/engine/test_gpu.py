"""What runs on a GPU in other lines than on a CPU: each gives what the CPU gives. Skipped without a GPU.

Other tests that need a GPU stand beside those of their modules: the loop, the patch store, the noise of cameras.
"""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from engine import api
from engine.data.dead_leaves import dead_leaves
from engine.inference.denoise import denoise_image
from engine.inference.model_selection import auto_selector
from engine.inference.normalisation import normalisation_for
from engine.inference.preparation import channel_laws
from engine.inference.sanity import check_network
from engine.inference.trial import least_risk, removed_where_calm
from engine.layers import parameters
from engine.models import checkpoint, precision
from engine.models.autoencoder import AutoencoderConfig
from engine.models.unet import UNetConfig
from engine.training.recipe import read_recipe
from engine.training.trainer import TrainingJob, run
from tests.support.pixels import generator

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
SHIPPED = checkpoint.weights_folder()
CLOSE = {"rtol": 0, "atol": 1e-3}
SMALL = {"hidden": "4", "batch": "2", "patch": "8", "noise_range": "2,3", "steps": "2"}


def noisy(height=100, width=140, sigma=25.0):
    clean = dead_leaves(height, width, generator()).float()
    return (clean + sigma * torch.randn(clean.shape, generator=generator())).clamp(0, 255).round().to(torch.uint8)


def on_both(name, dtype=torch.float32):
    """The network of shipped weights on the CPU, and on the GPU."""
    return [checkpoint.load(SHIPPED / f"{name}.safetensors", device, dtype).net for device in ("cpu", GPU)]


@pytest.mark.parametrize("name", ["photo-small", "photo", "paper"])
@pytest.mark.parametrize("window", [None, (1, 1)])
def test_a_gpu_denoises_as_a_cpu_does(name, window):
    pixels = noisy().float() / 255

    here, there = (denoise_image(net, pixels, window_size=window) for net in on_both(name))

    assert there.device.type == "cpu"
    torch.testing.assert_close(there, here, **CLOSE)


def test_bfloat16_on_a_gpu_agrees_to_40_db():
    exact, quick = on_both("photo")[0], on_both("photo", torch.bfloat16)[1]
    pixels = noisy().float() / 255

    difference = denoise_image(exact, pixels) - denoise_image(quick, pixels)

    assert -10 * difference.square().mean().log10() > 40


def test_the_faster_type_is_measured_on_a_gpu_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    first = precision.resolve("auto", torch.device(GPU))
    monkeypatch.setattr(precision, "measure", None)

    assert precision.resolve("auto", torch.device(GPU)) == first
    assert torch.cuda.get_device_name() in (tmp_path / precision.CACHE_FILE).read_text()


def test_weights_on_a_gpu_pass_the_sanity_check_and_are_saved(tmp_path):
    model = checkpoint.load(SHIPPED / "photo-small.safetensors", GPU)
    check_network(model.net)

    checkpoint.save(tmp_path / "copy.safetensors", model.net, model.config, model.metadata)

    assert {parameter.value.device.type for parameter in parameters(model.net)} == {GPU}
    values = [
        parameter.value
        for path in (tmp_path / "copy.safetensors", SHIPPED / "photo-small.safetensors")
        for parameter in parameters(checkpoint.load(path).net)
    ]
    half = len(values) // 2
    assert all(map(torch.equal, values[:half], values[half:]))


def test_the_trials_of_auto_give_the_same_on_a_gpu():
    samples = noisy(256, 256)
    here, there = (removed_where_calm(net, samples) for net in on_both("photo"))
    assert there == pytest.approx(here, rel=0.01)

    photons = np.random.default_rng(0).poisson(np.linspace(20, 400, 256)[:, None] * np.ones((256, 256)))
    grey = torch.from_numpy(photons.astype(np.uint16))[..., None]
    laws = channel_laws(api.estimate_noise(grey[..., 0].numpy()), 1)
    assert laws, "the noise of photons has a law"
    normalisation = normalisation_for(grey, laws)
    nets = [dict(zip(("photo-grey", "photo-gaussian"), pair, strict=True)) for pair in _pairs_of_nets()]
    here, there = (least_risk(each, grey, normalisation) for each in nets)
    assert there == here


def _pairs_of_nets():
    """The two networks for white noise on the CPU, and on the GPU."""
    return zip(on_both("photo-grey"), on_both("photo-gaussian"), strict=True)


def test_auto_selects_the_same_on_a_gpu():
    nets = zip(*(on_both(name) for name in ("photo", "photo-gaussian", "photo-grey")), strict=True)
    here, there = (
        auto_selector(dict(zip(("photo", "photo-gaussian", "photo-grey"), each, strict=True)))([noisy(256, 256)])
        for each in nets
    )

    assert there.name == here.name


def test_the_python_api_denoises_on_a_gpu():
    here, there = (
        api.denoise(noisy().numpy(), model=api.load_model("photo-small", device, "float32"))
        for device in ("cpu", GPU)
    )

    assert int(np.abs(here.astype(int) - there.astype(int)).max()) <= 1


def test_a_training_on_a_gpu_stops_continues_and_validates(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.fromarray(noisy(40, 40).numpy()).save(photos / f"{number}.png")
    job = partial(TrainingJob, out=tmp_path / "my.safetensors", data=(photos,), device=GPU, validate_every=0.0)
    lines = []

    for steps, resume in (("2", False), ("4", True)):
        recipe = read_recipe("paper", SMALL | {"steps": steps, "precision": "float32"})
        assert run(job(recipe, resume=resume), lines.append, print)

    assert lines[-1].step == 4
    assert lines[-1].psnr
    assert checkpoint.load(tmp_path / "my.safetensors").metadata["steps"] == "4"


@pytest.mark.parametrize(
    "config", [UNetConfig((8, 16), (1, 1, 1)), AutoencoderConfig(8), AutoencoderConfig(8, "text")]
)
def test_gradients_on_a_gpu_are_those_of_a_cpu(config):
    gradients = []
    for device in ("cpu", GPU):
        net = checkpoint.build_network(config, generator())
        for parameter in parameters(net):
            parameter.layer.params[parameter.key] = parameter.value.to(device)
        output = net.forward(torch.rand(2, 64, 64, 3, generator=generator()).to(device), train=True)
        net.backward(torch.ones_like(output))
        gradients.append([parameter.grad.cpu() for parameter in parameters(net)])

    for here, there in zip(*gradients, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3 * float(here.abs().max()))
