from fractions import Fraction

import pytest
import torch

from engine.inference.denoise import denoise_image
from engine.inference.self_ensemble import Ensemble, turned, turned_back, ways
from engine.layers import parameters
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.receptive_field import bytes_per_pixel, halo, reach
from engine.models.unet import UNetConfig


class Shift:
    """A toy: every pixel becomes its left neighbour, those at the border 0."""

    params, grads, layers, stride, factor = {}, {}, (), 1, Fraction(1)

    def forward(self, x, train=False):
        y = torch.zeros_like(x)
        y[:, :, 1:] = x[:, :, :-1]
        return y

    def inputs_of(self, first, last):
        return first - 1, last


SMALL = UNetConfig((8, 16), (1, 1, 1))


def network(spec=SMALL):
    rng = torch.Generator().manual_seed(0)
    net = build_network(spec, rng)
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng) * 0.08
    return net


def test_the_eight_ways_differ_and_are_undone():
    x = torch.rand(2, 3, 5, 3)

    seen = [turned(x, *way) for way in ways()]

    assert len({tuple(y.flatten().tolist()) for y in seen}) == 8
    assert all(torch.equal(turned_back(y, *way), x) for y, way in zip(seen, ways(), strict=True))


def test_the_mean_of_a_shift_is_that_of_the_four_neighbours():
    # By hand: of the eight ways two look at each of the neighbours left, right, above and below.
    x = torch.tensor([[1.0, 2, 4], [8, 16, 32]]).view(1, 2, 3, 1)

    y = Ensemble(Shift()).forward(x)

    expected = torch.tensor([[2 + 8, 1 + 4 + 16, 2 + 32], [1 + 16, 2 + 8 + 32, 4 + 16.0]]) / 4
    torch.testing.assert_close(y.view(2, 3), expected)


@pytest.mark.parametrize("way", list(ways()))
def test_an_ensemble_commutes_with_flips_and_turns(way):
    net, x = network(), torch.rand(1, 24, 32, 3)
    ensemble = Ensemble(net)

    torch.testing.assert_close(
        ensemble.forward(turned(x, *way).contiguous()), turned(ensemble.forward(x), *way), rtol=0, atol=1e-6
    )


def test_a_single_network_does_not_commute():
    net, x = network(), torch.rand(1, 24, 32, 3)

    assert (net.forward(x.flip(2)) - net.forward(x).flip(2)).abs().max() > 1e-3


def test_an_ensemble_writes_nothing_to_its_input_or_its_network():
    net, x = network(), torch.rand(1, 16, 16, 3)
    before, keys = x.clone(), vars(net).keys()

    Ensemble(net).forward(x)

    assert torch.equal(x, before)
    assert vars(net).keys() == keys


@pytest.mark.parametrize("spec", [SMALL, AutoencoderConfig(4), AutoencoderConfig(4, "text")])
def test_an_ensemble_needs_the_same_windows(spec):
    net = network(spec)
    ensemble = Ensemble(net)

    assert (ensemble.stride, ensemble.factor) == (net.stride, net.factor)
    assert (reach(ensemble), halo(ensemble)) == (reach(net), halo(net))


@pytest.mark.parametrize("window_size", [(1, 1), (2, 1), (1, 3)])
def test_an_image_is_the_same_whatever_the_window(window_size):
    ensemble, image = Ensemble(network()), torch.rand(70, 100, 3)

    torch.testing.assert_close(
        denoise_image(ensemble, image, window_size=window_size), denoise_image(ensemble, image), rtol=0, atol=1e-5
    )


def test_the_memory_is_that_of_one_turn_and_two_images():
    net = network()

    assert bytes_per_pixel(Ensemble(net)) == bytes_per_pixel(net) + 2 * 3 * 4


def test_an_ensemble_is_not_trained():
    ensemble, x = Ensemble(network()), torch.rand(1, 16, 16, 3)

    with pytest.raises(ValueError, match="not trained"):
        ensemble.forward(x, train=True)
    with pytest.raises(ValueError, match="not trained"):
        ensemble.backward(x)
