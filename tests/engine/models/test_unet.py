import pytest
import torch
from torch.nn import functional

from engine.layers import Skip, parameters
from engine.models.networks import build_network, parameter_count
from engine.models.receptive_field import halo, reach
from engine.models.unet import UNetConfig
from tests.support.oracle import (
    assert_passes_agree,
    channels_first,
    channels_last,
    conv2d,
    conv_transpose2d,
    drawn,
    randomised,
)
from tests.support.pixels import generator

SIZE_S = UNetConfig()
SIZE_M = UNetConfig((48, 96, 192), (1, 1, 4, 1, 1))
SIZE_L = UNetConfig((64, 128, 256), (2, 2, 6, 2, 2))
SMALL = UNetConfig((4, 6), (1, 2, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNetConfig((32, 0), (1, 1, 1)), "channels must be whole numbers of at least 1; got 0"),
        (lambda: UNetConfig((32,), (-1,)), "blocks must be whole numbers of at least 0; got -1"),
        (lambda: UNetConfig((32, 64), (1, 1)), "2 levels of channels take 3 numbers of blocks; got 2"),
        (lambda: UNetConfig((), ()), "0 levels of channels"),
    ],
)
def test_a_config_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "millions", "expected_reach", "expected_halo"),
    [(SIZE_S, 1.16, 83, 88), (SIZE_M, 3.26, 99, 104), (SIZE_L, 8.9, 155, 160)],
)
def test_sizes_s_m_and_l_are_those_of_the_design(config, millions, expected_reach, expected_halo):
    net = build_network(config)

    assert parameter_count(net) / 1e6 == pytest.approx(millions, rel=0.01)
    assert net.stride == 8
    assert reach(net) == expected_reach
    assert halo(net) == expected_halo


def torch_unet(config):
    """A U-Net of two levels with 1, 2 and 1 blocks."""
    width = config.channels[0]

    def block(x, weights):
        first, second = next(weights), next(weights)
        return x + conv2d(conv2d(x, first, padding=1).relu(), second, padding=1)

    def function(x, parameters):
        weights = iter(parameters.values())
        # torch orders the channels by (colour, position), and the network by (position, colour).
        halves = functional.pixel_unshuffle(channels_first(x), 2).unflatten(1, (3, 4))
        high = conv2d(channels_last(halves.transpose(1, 2).flatten(1, 2)), next(weights), padding=1)
        high = block(high, weights)
        low = conv2d(high, next(weights), stride=2)
        low = block(block(low, weights), weights)
        high = high + conv_transpose2d(low, next(weights), stride=2, out_channels=width)
        high = block(high, weights)
        tail = channels_first(conv2d(high, next(weights), padding=1)).unflatten(1, (4, 3))
        return x + channels_last(functional.pixel_shuffle(tail.transpose(1, 2).flatten(1, 2), 2))

    return function


def test_output_and_gradients_agree_with_autograd():
    assert_passes_agree(randomised(build_network(SMALL)), torch_unet(SMALL), drawn(2, 8, 12, 3))


@pytest.mark.parametrize("factor", [0.01, 3.0])
def test_the_output_scales_with_the_input(factor):
    net, x = randomised(build_network(SMALL)), drawn(1, 16, 16, 3)

    torch.testing.assert_close(net.forward(factor * x), factor * net.forward(x))


def test_an_untrained_network_returns_its_input():
    x = torch.rand(1, 16, 16, 3, generator=generator())

    assert torch.equal(build_network(SIZE_S, generator()).forward(x), x)


def test_each_kind_of_layer_starts_with_its_gain():
    net = build_network(SIZE_S, generator())
    _, head, block, *_, tail, _ = net.layers[0].layers
    skip = next(layer for layer in net.layers[0].layers if isinstance(layer, Skip))

    def spread(layer, fan_in):
        return layer.params["weight"].std().item() * fan_in**0.5

    assert spread(head, 9 * 12) == pytest.approx(1, rel=0.05)
    assert spread(block.first, 9 * 32) == pytest.approx(2**0.5, rel=0.05)
    assert spread(block.second, 9 * 32) == pytest.approx(0.3, rel=0.05)
    assert spread(skip.down, 4 * 32) == pytest.approx(1, rel=0.05)
    assert spread(skip.up, 64) == pytest.approx(1, rel=0.05)
    assert not tail.params["weight"].any()


def test_no_layer_has_a_bias():
    assert {parameter.key for parameter in parameters(build_network(SIZE_S))} == {"weight"}
