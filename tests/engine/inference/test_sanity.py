"""The check of a network on a small image."""

import pytest
import torch

from engine.inference.sanity import check
from engine.layers import parameters
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.unet import UNetConfig


def network(spec, change=lambda name, value: value):
    net = build_network(spec, torch.Generator().manual_seed(0))
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = change(parameter.name, parameter.value)
    return net


@pytest.mark.parametrize(
    "spec", [UNetConfig((4, 6), (1, 1, 1)), AutoencoderConfig(8), AutoencoderConfig(8, "text")]
)
def test_a_network_that_has_learnt_nothing_yet_passes(spec):
    check(network(spec))


def test_weights_that_overflow_are_refused():
    net = network(UNetConfig((4, 6), (1, 1, 1)), lambda name, value: torch.full_like(value, 1e30))

    with pytest.raises(ValueError, match="no finite number"):
        check(net)


def test_a_training_that_blew_up_is_refused_with_what_came_back():
    net = network(UNetConfig((4, 6), (1, 1, 1)), lambda name, value: torch.full_like(value, 3.0))

    with pytest.raises(
        ValueError, match=r"further from the clean one than black or white is: from \S+ to \S+, off by"
    ):
        check(net)


@pytest.mark.parametrize("shade", [-50.0, 50.0])
def test_a_network_that_makes_all_images_black_or_white_is_refused(shade):
    net = network(AutoencoderConfig(4), lambda name, value: value + shade * name.endswith("6.bias"))

    with pytest.raises(ValueError, match="further from the clean one"):
        check(net)


def test_a_check_leaves_no_packed_weights():
    net = network(UNetConfig((4, 6), (1, 1, 1)))

    check(net)

    assert not any(parameter.layer._packed for parameter in parameters(net))
