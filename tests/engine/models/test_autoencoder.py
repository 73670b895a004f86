import pytest

from engine.layers import parameters
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from tests.support.oracle import assert_passes_agree, conv2d, conv_transpose2d, drawn, randomised


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoencoderConfig(0), "hidden must be a whole number of at least 1; got 0"),
        (lambda: AutoencoderConfig(32, "both"), 'geometry must be "text" or "weights"; got \'both\''),
    ],
)
def test_a_config_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("hidden", [32, 64, 128, 256])
def test_both_geometries_have_the_reports_layers(hidden):
    shapes = {
        geometry: [
            tuple(parameter.value.shape)
            for parameter in parameters(build_network(AutoencoderConfig(hidden, geometry)))
        ]
        for geometry in ("text", "weights")
    }

    biases = [(hidden,), (hidden,), (hidden,), (3,)]
    assert shapes["text"][::2] == [(4 * 3, hidden), (4 * hidden, hidden), (hidden, 9 * hidden), (hidden, 9 * 3)]
    assert shapes["weights"][::2] == [
        (9 * 3, hidden),
        (9 * hidden, hidden),
        (hidden, 4 * hidden),
        (hidden, 4 * 3),
    ]
    assert shapes["text"][1::2] == shapes["weights"][1::2] == biases


def torch_autoencoder(config):
    down, up = {"stride": 2, "padding": 1}, {"stride": 2}
    if config.geometry == "text":
        down, up = {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}

    def function(x, parameters):
        w1, b1, w2, b2, w3, b3, w4, b4 = parameters.values()
        x = conv2d(x, w1, b1, **down).relu()
        x = conv2d(x, w2, b2, **down).relu()
        x = conv_transpose2d(x, w3, b3, **up, out_channels=config.hidden).relu()
        return conv_transpose2d(x, w4, b4, **up, out_channels=3).sigmoid()

    return function


@pytest.mark.parametrize("config", [AutoencoderConfig(5, "text"), AutoencoderConfig(5, "weights")])
def test_output_and_gradients_agree_with_autograd(config):
    assert_passes_agree(randomised(build_network(config)), torch_autoencoder(config), drawn(2, 8, 12, 3))


def test_the_output_is_within_0_and_1():
    y = randomised(build_network(AutoencoderConfig(8))).forward(10 * drawn(1, 8, 8, 3))

    assert y.min() >= 0
    assert y.max() <= 1
