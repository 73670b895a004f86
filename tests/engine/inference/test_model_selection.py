from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.data.dead_leaves import dead_leaves
from engine.inference import model_selection
from engine.inference.noise_estimation import summary
from tests.support.networks import Averaging
from tests.support.pixels import generator


@pytest.fixture(scope="module")
def clean():
    return dead_leaves(256, 256, generator()).float() / 255


def white(clean):
    return clean + 20 / 255 * torch.randn(clean.shape, generator=generator())


def smeared(clean):
    """Noise that neighbouring pixels share, as after a camera's processing."""
    noise = torch.randn(clean.shape, generator=generator())
    for axis in (0, 1):
        noise = (noise + noise.roll(1, axis) + noise.roll(2, axis)) / 3**0.5
    return clean + 10 / 255 * noise


def in_8_bits(image):
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def model(name, net):
    """As a weights file is loaded."""
    return SimpleNamespace(name=name, net=net, digest=f"digest of {name}", precision="float32")


@pytest.mark.parametrize("as_sent", [lambda image: image, in_8_bits])
def test_each_kind_of_noise_gets_its_specialist(clean, as_sent):
    assert model_selection.select_model(as_sent(white(clean)))[0] == "photo-gaussian"
    assert model_selection.select_model(as_sent(smeared(clean)))[0] == "photo"
    assert model_selection.select_model(as_sent(white(clean)), "auto-large")[0] == "photo-gaussian-large"
    assert model_selection.select_model(as_sent(smeared(clean)), "auto-large")[0] == "photo"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("auto", ["auto", "auto-large"])
def test_grey_has_a_specialist_for_white_noise(clean, channels, auto):
    grey = clean[..., 1:2]

    assert model_selection.select_model(white(grey).expand(-1, -1, channels), auto)[0] == "photo-grey"
    assert model_selection.select_model(smeared(grey).expand(-1, -1, channels), auto)[0] == "photo"


def test_an_image_that_cannot_be_measured_gets_the_camera_model():
    name, estimate = model_selection.select_model(torch.zeros(5, 7, 3, dtype=torch.uint8))

    assert name == "photo"
    assert summary(estimate) == "unknown"


def test_a_selector_returns_the_network_for_the_image(clean):
    nets = {name: Averaging(5) for name in ("photo-gaussian", "photo-grey", "photo")}

    assert model_selection.auto_selector(nets)([white(clean)]).net is nets["photo-gaussian"]
    assert model_selection.auto_selector(nets)([white(clean[..., :1])]).net is nets["photo-grey"]
    assert model_selection.auto_selector(nets)([smeared(clean)]).net is nets["photo"]
    assert model_selection.fixed_selector(nets["photo"])([white(clean)]).net is nets["photo"]

    large = {"photo-gaussian-large": Averaging(5), "photo": Averaging(5)}
    assert model_selection.auto_selector(large, "auto-large")([white(clean)]).net is large["photo-gaussian-large"]
    assert model_selection.auto_selector(large, "auto-large")([smeared(clean)]).net is large["photo"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["photo", "paper"], []),
        (["photo-gaussian", "photo"], []),
        (["photo-grey", "photo-gaussian", "photo"], ["auto"]),
        (["photo", "photo-gaussian-large", "photo-grey"], ["auto-large"]),
        (["photo", "photo-gaussian", "photo-grey", "photo-gaussian-large"], ["auto", "auto-large"]),
    ],
)
def test_an_auto_model_needs_all_its_models(names, expected):
    assert model_selection.available_auto_models(names) == expected


def test_one_model_is_loaded_under_its_own_name():
    net = object()

    loaded = model_selection.load_with(lambda name: model(Path(name).stem, net), "folder/mine.safetensors")

    assert (loaded.name, loaded.digest, loaded.precision) == ("mine", "digest of mine", "float32")
    assert loaded.nets == {"mine": net}
    assert loaded.select([torch.zeros(5, 7, 3)]).net is net


def test_an_auto_model_is_loaded_with_all_its_models():
    nets = {name: object() for name in model_selection.models_of("auto-large")}

    loaded = model_selection.load_with(lambda name: model(name, nets[name]), "auto-large")

    assert loaded.name == "auto-large"
    assert loaded.digest == "digest of photo-gaussian-large+digest of photo-grey+digest of photo"
    assert loaded.nets == nets
    assert loaded.select([torch.zeros(5, 7, 3)]).net is nets["photo"]


def test_models_of_an_auto_model_are_its_specialists():
    assert model_selection.models_of("auto-large") == ["photo-gaussian-large", "photo-grey", "photo"]
    assert model_selection.models_of("paper") == ["paper"]


def test_networks_load_when_they_are_looked_up_and_once():
    loaded = []
    nets = model_selection.LazyNetworks(lambda name: loaded.append(name) or Averaging(1))

    assert list(nets) == ["photo-gaussian", "photo-grey", "photo"]
    assert loaded == []
    assert nets["photo"] is nets["photo"]
    assert loaded == ["photo"]
