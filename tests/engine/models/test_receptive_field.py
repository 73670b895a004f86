import pytest
import torch

from engine.layers import Conv2d, Sequential
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.receptive_field import bytes_per_pixel, halo, reach
from engine.models.unet import UNetConfig
from tests.support.memory import peak_bytes
from tests.support.networks import image
from tests.support.oracle import PATHS, drawn, randomised

CONFIGS = [
    AutoencoderConfig(4, "text"),
    AutoencoderConfig(4, "weights"),
    UNetConfig((4, 6), (1, 2, 1)),
    UNetConfig((5,), (1,)),
]
# As deep as size S, and narrower.
THIN_S = UNetConfig((4, 4, 4), UNetConfig().blocks)


@pytest.mark.parametrize("config", [*CONFIGS, THIN_S])
def test_reach_is_the_farthest_pixel_that_changes_the_output(config):
    net = randomised(build_network(config))
    middle = halo(net)
    ranges = [(at, *net.inputs_of(at, at)) for at in range(middle, middle + net.stride)]
    x = drawn(8, net.stride, 2 * middle + net.stride, 3)
    before = net.forward(x)

    def depends(at, column):
        """Whether the output column `at` changes with this input column, in any image."""
        other = x.clone()
        other[:, :, column] += 1
        return not torch.equal(net.forward(other)[:, :, at], before[:, :, at])

    assert max(max(at - first, last - at) for at, first, last in ranges) == reach(net)
    for at, first, last in ranges:
        assert depends(at, first)
        assert depends(at, last)
        assert first == 0 or not depends(at, first - 1)
        assert last == x.shape[2] - 1 or not depends(at, last + 1)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_shift_by_the_stride_shifts_the_output(config):
    net = randomised(build_network(config))
    margin, step = halo(net), net.stride
    x = drawn(1, step, 2 * margin + 4 * step, 3)

    later, sooner = net.forward(x[:, :, step:]), net.forward(x[:, :, :-step])

    torch.testing.assert_close(later[:, :, margin : -margin - step], sooner[:, :, margin + step : -margin])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "net",
    [
        build_network(UNetConfig()),
        build_network(UNetConfig(), compute=torch.bfloat16),
        build_network(UNetConfig((48, 96), (1, 2, 1))),
        build_network(AutoencoderConfig(64, "text")),
        build_network(AutoencoderConfig(64, "weights")),
        Sequential(Conv2d(3, 16, 3, padding=1), Conv2d(16, 16, 3, padding=1)),
    ],
)
def test_bytes_per_pixel_is_a_tight_upper_bound(net, path):
    side = 384
    x = image(side, side).unsqueeze(0)
    with path():
        # Packs the weights, which is done once for many images.
        net.forward(x[:, :32, :32].contiguous())

        taken, allowed = peak_bytes(lambda: net.forward(x)), bytes_per_pixel(net) * side**2

    assert taken <= 1.02 * allowed
    assert taken > 0.5 * allowed
