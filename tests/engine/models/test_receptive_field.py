import pytest
import torch

from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.receptive_field import halo, reach
from engine.models.unet import UNetConfig
from tests.support.oracle import drawn, randomised

CONFIGS = [
    AutoencoderConfig(4, "text"),
    AutoencoderConfig(4, "weights"),
    UNetConfig((4, 6), (1, 2, 1)),
    UNetConfig((5,), (1,)),
]
# As deep as size S.
THIN_S = UNetConfig((4, 4, 4), UNetConfig().blocks)


@pytest.mark.parametrize("config", [*CONFIGS, THIN_S])
def test_reach_is_the_farthest_pixel_that_changes_the_output(config):
    net = randomised(build_network(config))
    middle = halo(net)
    places = [(at, *net.inputs_of(at, at)) for at in range(middle, middle + net.stride)]
    x = drawn(8, net.stride, 2 * middle + net.stride, 3)
    before = net.forward(x)

    def moves(at, changed):
        """Whether a column of the output moves with a column of the input, in any of the images."""
        other = x.clone()
        other[:, :, changed] += 1
        return not torch.equal(net.forward(other)[:, :, at], before[:, :, at])

    assert max(max(at - first, last - at) for at, first, last in places) == reach(net)
    for at, first, last in places:
        assert moves(at, first)
        assert moves(at, last)
        assert first == 0 or not moves(at, first - 1)
        assert last == x.shape[2] - 1 or not moves(at, last + 1)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_shift_by_the_stride_shifts_the_output(config):
    net = randomised(build_network(config))
    margin, step = halo(net), net.stride
    x = drawn(1, step, 2 * margin + 4 * step, 3)

    later, sooner = net.forward(x[:, :, step:]), net.forward(x[:, :, :-step])

    torch.testing.assert_close(later[:, :, margin : -margin - step], sooner[:, :, margin + step : -margin])
