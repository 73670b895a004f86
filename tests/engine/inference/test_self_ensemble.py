from fractions import Fraction

import pytest
import torch

from engine.inference.denoise import denoise_image
from engine.inference.self_ensemble import SelfEnsemble, orientations, oriented, restored
from engine.layers import parameters
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.receptive_field import bytes_per_pixel, halo, reach
from engine.models.unet import UNetConfig


class Shift:
    """A test network: each pixel becomes its left neighbour, and 0 at the border."""

    params, grads, layers, stride, factor = {}, {}, (), 1, Fraction(1)

    def forward(self, x, train=False):
        y = torch.zeros_like(x)
        y[:, :, 1:] = x[:, :, :-1]
        return y

    def inputs_of(self, first, last):
        return first - 1, last


SMALL = UNetConfig((8, 16), (1, 1, 1))


def network(config=SMALL):
    rng = torch.Generator().manual_seed(0)
    net = build_network(config, rng)
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng) * 0.08
    return net


def test_the_eight_orientations_differ_and_can_be_undone():
    x = torch.rand(2, 3, 5, 3)

    seen = [oriented(x, *orientation) for orientation in orientations()]

    assert len({tuple(y.flatten().tolist()) for y in seen}) == 8
    assert all(
        torch.equal(restored(y, *orientation), x) for y, orientation in zip(seen, orientations(), strict=True)
    )


def test_the_mean_of_a_shift_is_that_of_the_four_neighbours():
    # By hand: of the eight orientations, two each return the neighbour on the left, right, above and below.
    x = torch.tensor([[1.0, 2, 4], [8, 16, 32]]).view(1, 2, 3, 1)

    y = SelfEnsemble(Shift()).forward(x)

    expected = torch.tensor([[2 + 8, 1 + 4 + 16, 2 + 32], [1 + 16, 2 + 8 + 32, 4 + 16.0]]) / 4
    torch.testing.assert_close(y.view(2, 3), expected)


@pytest.mark.parametrize("orientation", list(orientations()))
def test_an_ensemble_commutes_with_flips_and_rotations(orientation):
    net, x = network(), torch.rand(1, 24, 32, 3)
    ensemble = SelfEnsemble(net)

    torch.testing.assert_close(
        ensemble.forward(oriented(x, *orientation).contiguous()),
        oriented(ensemble.forward(x), *orientation),
        rtol=0,
        atol=1e-6,
    )


def test_a_single_network_does_not_commute():
    net, x = network(), torch.rand(1, 24, 32, 3)

    assert (net.forward(x.flip(2)) - net.forward(x).flip(2)).abs().max() > 1e-3


def test_an_ensemble_changes_neither_input_nor_network():
    net, x = network(), torch.rand(1, 16, 16, 3)
    before, keys = x.clone(), vars(net).keys()

    SelfEnsemble(net).forward(x)

    assert torch.equal(x, before)
    assert vars(net).keys() == keys


@pytest.mark.parametrize("config", [SMALL, AutoencoderConfig(4), AutoencoderConfig(4, "text")])
def test_an_ensemble_needs_the_same_windows(config):
    net = network(config)
    ensemble = SelfEnsemble(net)

    assert (ensemble.stride, ensemble.factor) == (net.stride, net.factor)
    assert (reach(ensemble), halo(ensemble)) == (reach(net), halo(net))


@pytest.mark.parametrize("window_size", [(1, 1), (2, 1), (1, 3)])
def test_the_result_does_not_depend_on_the_window_size(window_size):
    ensemble, image = SelfEnsemble(network()), torch.rand(70, 100, 3)

    torch.testing.assert_close(
        denoise_image(ensemble, image, window_size=window_size), denoise_image(ensemble, image), rtol=0, atol=1e-5
    )


def test_the_memory_is_that_of_one_network_and_two_images():
    net = network()

    assert bytes_per_pixel(SelfEnsemble(net)) == bytes_per_pixel(net) + 2 * 3 * 4


def test_an_ensemble_cannot_be_trained():
    ensemble, x = SelfEnsemble(network()), torch.rand(1, 16, 16, 3)

    with pytest.raises(ValueError, match="cannot be trained"):
        ensemble.forward(x, train=True)
    with pytest.raises(ValueError, match="cannot be trained"):
        ensemble.backward(x)
