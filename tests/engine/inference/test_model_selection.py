"""The choice among networks by the noise found."""

import pytest
import torch

from engine.data.dead_leaves import dead_leaves
from engine.inference import model_selection
from engine.inference.noise_estimation import summary


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def clean():
    return dead_leaves(256, 256, generator()).float() / 255


def white(clean):
    return clean + 20 / 255 * torch.randn(clean.shape, generator=generator())


def smeared(clean):
    """Noise that neighbouring pixels share, as a camera's own processing leaves it."""
    noise = torch.randn(clean.shape, generator=generator())
    for axis in (0, 1):
        noise = (noise + noise.roll(1, axis) + noise.roll(2, axis)) / 3**0.5
    return clean + 10 / 255 * noise


def in_8_bits(image):
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


@pytest.mark.parametrize("as_sent", [lambda image: image, in_8_bits])
def test_each_noise_gets_its_specialist(clean, as_sent):
    assert model_selection.choose(as_sent(white(clean)))[0] == "photo-gaussian"
    assert model_selection.choose(as_sent(smeared(clean)))[0] == "photo"
    assert model_selection.choose(as_sent(white(clean)), "auto-large")[0] == "photo-gaussian-large"
    assert model_selection.choose(as_sent(smeared(clean)), "auto-large")[0] == "photo"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("choice", ["auto", "auto-large"])
def test_grey_has_a_specialist_for_white_noise(clean, channels, choice):
    """As one channel, or as three equal ones."""
    grey = clean[..., 1:2]

    assert model_selection.choose(white(grey).expand(-1, -1, channels), choice)[0] == "photo-grey"
    assert model_selection.choose(smeared(grey).expand(-1, -1, channels), choice)[0] == "photo"


def test_what_nothing_can_be_said_of_gets_the_network_for_cameras():
    name, estimate = model_selection.choose(torch.zeros(5, 7, 3, dtype=torch.uint8))

    assert name == "photo"
    assert summary(estimate) == "unknown"


def test_an_image_is_denoised_by_the_network_chosen_for_it(clean):
    nets = {name: object() for name in ("photo-gaussian", "photo-grey", "photo")}

    assert model_selection.among(nets)(white(clean)) is nets["photo-gaussian"]
    assert model_selection.among(nets)(white(clean[..., :1])) is nets["photo-grey"]
    assert model_selection.among(nets)(smeared(clean)) is nets["photo"]
    assert model_selection.always(nets["photo"])(white(clean)) is nets["photo"]

    large = {"photo-gaussian-large": object(), "photo": object()}
    assert model_selection.among(large, "auto-large")(white(clean)) is large["photo-gaussian-large"]
    assert model_selection.among(large, "auto-large")(smeared(clean)) is large["photo"]


@pytest.mark.parametrize(
    ("there", "possible"),
    [
        (["photo", "paper"], []),
        (["photo-gaussian", "photo"], []),
        (["photo-grey", "photo-gaussian", "photo"], ["auto"]),
        (["photo", "photo-gaussian-large", "photo-grey"], ["auto-large"]),
        (["photo", "photo-gaussian", "photo-grey", "photo-gaussian-large"], ["auto", "auto-large"]),
    ],
)
def test_only_a_choice_among_weights_that_are_there_is_offered(there, possible):
    assert model_selection.possible(there) == possible


def test_a_choice_means_its_weights_and_weights_mean_themselves():
    assert model_selection.behind("auto-large") == ["photo-gaussian-large", "photo-grey", "photo"]
    assert model_selection.behind("paper") == ["paper"]
