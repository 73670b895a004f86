import pytest
import torch

from engine.inference.sanity import check_network
from engine.layers import parameters
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.unet import UNetConfig


def network(config, change=lambda name, value: value):
    net = build_network(config, torch.Generator().manual_seed(0))
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = change(parameter.name, parameter.value)
    return net


@pytest.mark.parametrize(
    "config", [UNetConfig((4, 6), (1, 1, 1)), AutoencoderConfig(8), AutoencoderConfig(8, "text")]
)
def test_an_untrained_network_passes(config):
    check_network(network(config))


def test_weights_that_overflow_are_refused():
    net = network(UNetConfig((4, 6), (1, 1, 1)), lambda name, value: torch.full_like(value, 1e30))

    with pytest.raises(ValueError, match="values that are not finite numbers"):
        check_network(net)


def test_weights_of_a_diverged_training_are_refused():
    net = network(UNetConfig((4, 6), (1, 1, 1)), lambda name, value: torch.full_like(value, 3.0))

    with pytest.raises(ValueError, match=r"further from the clean one .*; its values are from \S+ to \S+, with"):
        check_network(net)


@pytest.mark.parametrize("shade", [-50.0, 50.0])
def test_a_network_with_a_black_or_white_output_is_refused(shade):
    net = network(AutoencoderConfig(4), lambda name, value: value + shade * name.endswith("6.bias"))

    with pytest.raises(ValueError, match="further from the clean one"):
        check_network(net)


def test_a_check_frees_the_packed_weights():
    net = network(UNetConfig((4, 6), (1, 1, 1)))

    check_network(net)

    assert not any(parameter.layer._packed for parameter in parameters(net))
