import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers import MSE, parameters
from engine.models.autoencoder import AutoencoderConfig
from engine.models.net2net import grow
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.oracle import drawn, randomised

SMALL = UNetConfig((2, 3), (1, 2, 0))
LARGE = UNetConfig((5, 7), (3, 2, 1))


def fresh(config):
    return build_network(config, torch.Generator().manual_seed(0))


def grown(small, config):
    large = randomised(fresh(config))
    grow(small, large)
    return large


def values(net):
    return [p.value.clone() for p in parameters(net)]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=3),
    st.data(),
)
@settings(max_examples=30, deadline=None)
def test_a_grown_network_gives_the_same_image(widths, data):
    channels = tuple(width for width, _ in widths)
    wider = tuple(width + more for width, more in widths)
    blocks = tuple(data.draw(st.integers(0, 2)) for _ in range(2 * len(channels) - 1))
    deeper = tuple(count + data.draw(st.integers(0, 2)) for count in blocks)
    small = randomised(fresh(UNetConfig(channels, blocks)))
    large = grown(small, UNetConfig(wider, deeper))
    x = drawn(1, 16, 24, 3)

    torch.testing.assert_close(large.forward(x), small.forward(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("geometry", ["text", "weights"])
def test_an_autoencoder_grows_with_its_biases(geometry):
    small = randomised(fresh(AutoencoderConfig(4, geometry)))
    large = grown(small, AutoencoderConfig(6, geometry))
    x = drawn(1, 8, 8, 3)

    torch.testing.assert_close(large.forward(x), small.forward(x), rtol=1e-9, atol=1e-9)


def test_one_channel_by_hand():
    small, large = fresh(UNetConfig((1,), (0,))), fresh(UNetConfig((2,), (0,)))
    (head, tail), (wide_head, wide_tail) = parameters(small), parameters(large)
    head.layer.params["weight"] = torch.arange(108.0).view(108, 1)
    tail.layer.params["weight"] = torch.arange(108.0).view(9, 12)
    drawn_head = wide_head.value.clone()

    grow(small, large)

    # The head's columns are its channels, the old one first. The tail's rows are taps, each with both channels.
    assert torch.equal(wide_head.value[:, 0], torch.arange(108.0))
    assert torch.equal(wide_head.value[:, 1], drawn_head[:, 1])
    assert torch.equal(wide_tail.value[0::2], torch.arange(108.0).view(9, 12))
    assert not wide_tail.value[1::2].any()


def test_every_channel_of_a_grown_network_learns_differently():
    large = grown(randomised(fresh(SMALL)), LARGE)
    x, target = drawn(1, 32, 32, 3), drawn(1, 32, 32, 3, seed=1)
    mse = MSE()

    for _ in range(3):
        y = large.forward(x, train=True)
        large.backward(mse.backward(y, target))
        for parameter in parameters(large):
            parameter.value.sub_(parameter.grad, alpha=0.1)

    for parameter in parameters(large):
        if parameter.layer.geometry.kernel_size == 3:
            channels = parameter.grad.t()
            assert channels.any(1).all(), parameter.name
            assert len(channels.unique(dim=0)) == len(channels), parameter.name


def test_weights_are_copied_not_shared():
    small = randomised(fresh(SMALL))
    before = values(small)
    large = grown(small, LARGE)

    for parameter in parameters(large):
        parameter.value.add_(1)

    assert all(torch.equal(a, b) for a, b in zip(values(small), before, strict=True))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (UNetConfig((2, 2), (1, 2, 0)), "does not fit into the larger one"),
        (UNetConfig((2, 3), (1, 1, 0)), "does not fit into the larger one"),
        (UNetConfig((2,), (1,)), "does not fit into the larger one"),
        (UNetConfig((2, 3, 4), (1, 2, 1, 0, 0)), "does not fit into the larger one"),
        (AutoencoderConfig(8), "does not fit into the larger one"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_unchanged(config, says):
    large = fresh(config)
    before = values(large)

    with pytest.raises(ValueError, match=says):
        grow(fresh(SMALL), large)

    assert all(torch.equal(a, b) for a, b in zip(values(large), before, strict=True))


def test_networks_of_different_geometries_do_not_fit():
    with pytest.raises(ValueError, match="does not fit"):
        grow(fresh(AutoencoderConfig(4, "text")), fresh(AutoencoderConfig(8, "weights")))
