from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.data.dead_leaves import dead_leaves
from engine.inference import model_selection
from engine.inference.adapted_noise import GATE_KEY, REFUSED
from engine.inference.noise_estimation import summary
from tests.support.adapted import LAW, PHOTONS, WHITE, metadata_of, shot_of
from tests.support.adapted import smeared as smeared_by
from tests.support.bursts import photons
from tests.support.bursts import white as white_of
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


# Adapted weights


def test_weights_adapted_to_the_noise_are_chosen():
    shot = shot_of(photons(200))
    nets = {name: Averaging(5) for name in (*model_selection.models_of("auto"), "mine", "other")}
    adapted = {"other": WHITE, "mine": PHOTONS}

    choice = model_selection.select_for_pages([shot], "auto", nets, adapted)
    selection = model_selection.auto_selector(nets, "auto", adapted)([shot])

    assert choice.name == selection.name == "mine"
    assert selection.net is nets["mine"]
    assert choice.reason.startswith("its noise is that of mine: gain 2, level within a factor of 1")
    assert [each.law for each in selection.estimate.laws] == [LAW], "the law that they were trained with"
    assert model_selection.select_for_pages([shot], "auto-large", None, adapted).name == "mine"


@pytest.mark.parametrize(
    ("noise", "weights"), [(white_of(25), PHOTONS), (white_of(60), WHITE), (smeared_by(25), WHITE)]
)
def test_adapted_weights_change_nothing_for_other_noise(noise, weights):
    shot = shot_of(noise)

    before = model_selection.select_for_pages([shot])
    after = model_selection.select_for_pages([shot], adapted={"mine": weights})

    assert (after.name, after.estimate, after.applied) == (before.name, before.estimate, before.applied)
    assert after.reason.startswith(f"{before.reason}; mine, the nearest of the adapted weights, was not chosen: ")


def test_weights_without_a_law_get_no_transform():
    shot = shot_of(white_of(25))

    choice = model_selection.select_for_pages([shot], adapted={"mine": WHITE})

    assert choice.name == "mine"
    assert choice.applied.laws == ()


@pytest.mark.parametrize(("noise", "weights"), [(white_of(25), WHITE), (photons(200), PHOTONS)])
def test_a_trial_may_speak_against_adapted_weights(noise, weights):
    nets = {name: Averaging(3) for name in model_selection.models_of("auto")}
    shot = shot_of(noise)

    good, bad = (
        model_selection.select_for_pages([shot], "auto", {**nets, "mine": net}, {"mine": weights})
        for net in (Averaging(3), Averaging(31))
    )

    assert good.name == "mine"
    assert bad.name == "photo-grey"
    assert bad.reason.endswith("was not chosen: in a trial on this image it left more error")


def test_no_trial_where_shots_have_shown_shared_noise():
    nets = {name: Averaging(31) for name in (*model_selection.models_of("auto"), "mine")}
    known = {"mine": replace(WHITE, shared=0.2)}

    assert model_selection.select_for_pages([shot_of(white_of(25))], "auto", nets, known).name == "mine"


def test_a_shipped_name_stays_with_the_shipped_model():
    assert model_selection.without_specialists({"photo": PHOTONS, "mine": WHITE}) == {"mine": WHITE}


def test_an_auto_model_is_loaded_with_adapted_weights():
    names = [*model_selection.models_of("auto"), "mine"]
    nets = {name: Averaging(5) for name in names}

    loaded = model_selection.load_with(lambda name: model(name, nets[name]), "auto", {"mine": PHOTONS})
    single = model_selection.load_with(lambda name: model(name, nets[name]), "photo", {"mine": PHOTONS})

    assert loaded.nets == nets
    assert loaded.digest.endswith("+digest of mine")
    assert loaded.select([shot_of(photons(200))]).name == "mine"
    assert list(single.nets) == ["photo"]


def test_adapted_weights_of_ones_own_folder_are_known(tmp_path, monkeypatch, save_tiny):
    for name, metadata in {
        "mine": metadata_of(PHOTONS),
        "aside": {**metadata_of(PHOTONS), GATE_KEY: REFUSED},
        "plain": {},
        "photo": metadata_of(WHITE),
    }.items():
        save_tiny(tmp_path / f"{name}.safetensors", **metadata)
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    assert model_selection.known_adapted() == {}

    monkeypatch.setenv("DENOISE_WEIGHTS", str(tmp_path))

    assert model_selection.known_adapted() == {"mine": PHOTONS}


def test_networks_load_when_they_are_looked_up_and_once():
    loaded = []
    nets = model_selection.LazyNetworks(lambda name: loaded.append(name) or Averaging(1))

    assert list(nets) == ["photo-gaussian", "photo-grey", "photo"]
    assert loaded == []
    assert nets["photo"] is nets["photo"]
    assert loaded == ["photo"]
