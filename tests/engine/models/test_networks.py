import json

import pytest
import torch

from engine.layers import parameters
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network, config_from_dict, config_to_dict, kind_of
from engine.models.unet import UNetConfig
from tests.support.oracle import PATHS
from tests.support.pixels import generator

SMALL = UNetConfig((4, 6), (1, 2, 1))
CONFIGS = [AutoencoderConfig(4, "text"), AutoencoderConfig(4, "weights"), SMALL, UNetConfig((5,), (1,))]


@pytest.mark.parametrize("config", [AutoencoderConfig(), AutoencoderConfig(32, "text"), UNetConfig(), SMALL])
def test_a_config_survives_the_json_of_a_weights_file(config):
    text = json.dumps(config_to_dict(config))

    assert config_from_dict(json.loads(text)) == config
    assert json.loads(text)["kind"] == kind_of(config)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="a network's kind is one of paper, photo; got 'unet'"):
        config_from_dict({"kind": "unet"})


def test_an_unknown_field_is_named_in_the_error():
    with pytest.raises(ValueError, match="photo networks take blocks, channels; got depth, hidden"):
        config_from_dict({"kind": "photo", "hidden": 3, "depth": 2})


@pytest.mark.parametrize("config", CONFIGS)
def test_the_output_has_the_size_of_the_input(config):
    net = build_network(config)

    assert net.forward(torch.rand(2, 16, 24, 3)).shape == (2, 16, 24, 3)


@pytest.mark.parametrize("path", PATHS)
def test_a_size_that_the_stride_does_not_divide_is_refused(path):
    with (
        path(),
        pytest.raises(ValueError, match=r"add must be contiguous \(1, 2, 2, 64\) .*; got \(1, 3, 3, 64\)"),
    ):
        build_network(UNetConfig()).forward(torch.rand(1, 12, 12, 3))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("config", CONFIGS)
def test_inputs_and_gradients_need_not_be_contiguous(config, path):
    net, x = build_network(config, generator()), torch.rand(2, 16, 3, 24, generator=generator()).transpose(2, 3)
    with path():
        wanted = net.forward(x.contiguous(), train=True), net.backward(x.contiguous())

        made = net.forward(x, train=True), net.backward(x)

    assert torch.equal(made[0], wanted[0])
    assert torch.equal(made[1], wanted[1])


@pytest.mark.parametrize("config", CONFIGS)
def test_inference_keeps_no_activations(config):
    def kept(layer):
        return [sorted(vars(layer)), *map(kept, layer.layers)]

    net = build_network(config)
    before = kept(net)

    net.forward(torch.rand(1, 8, 8, 3))

    assert kept(net) == before


@pytest.mark.parametrize("config", [AutoencoderConfig(8), SMALL])
def test_equal_generators_make_equal_networks(config):
    first, second = (build_network(config, generator(3)) for _ in range(2))

    for one, other in zip(parameters(first), parameters(second), strict=True):
        assert torch.equal(one.value, other.value)
