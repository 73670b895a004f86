"""Oracle for the hand-written passes: the same mathematics by torch's own functions and autograd."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional

from engine.layers import parameters
from tests.bench.plain import plain_path

# The kernels, if this processor has any, and the plain path.
PATHS = [pytest.param(nullcontext, id="kernels"), pytest.param(plain_path, id="plain")]


def drawn(*shape, seed=0):
    """Float64 numbers from a normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(net):
    """The network in float64, with random parameters.

    In float64, two right answers agree to 1e-12. Initial parameters would hide mistakes: biases, and the last
    layer of a photo network, are zero.
    """
    for place, parameter in enumerate(parameters(net)):
        value = drawn(*parameter.value.shape, seed=place) / parameter.value.shape[0] ** 0.5
        parameter.layer.params[parameter.key] = value
    return net


def assert_passes_agree(layer, function, x):
    """Check y, dL/dx and all gradients of a layer against those of function(x, parameters by name)."""
    given = x.clone().requires_grad_()
    copies = {each.name: each.value.clone().requires_grad_() for each in parameters(layer)}
    expected = function(given, copies)
    dy = drawn(*expected.shape, seed=1)
    gradients = torch.autograd.grad(expected, [given, *copies.values()], dy)

    y, dx = layer.forward(x, train=True), layer.backward(dy)

    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(dx, gradients[0])
    for parameter, gradient in zip(parameters(layer), gradients[1:], strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient, msg=lambda text, name=parameter.name: f"{name}: {text}"
        )


def assert_adjoint(layer, x):
    """Check <Ax, y> = <x, A'y> for a linear layer: its backward is its adjoint."""
    ax = layer.forward(x, train=True)
    y = drawn(*ax.shape, seed=2)

    torch.testing.assert_close((ax * y).sum(), (x * layer.backward(y)).sum())


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1):
    """torch's convolution on (N, H, W, C), of a weight in our layout."""
    kernel = _kernel(weight, x.shape[3])
    return channels_last(functional.conv2d(channels_first(x), kernel, bias, stride, padding, dilation))


def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, dilation=1, output_padding=0, out_channels=1):
    """torch's transposed convolution on (N, H, W, C), of a weight in our layout."""
    kernel = _kernel(weight.T, out_channels)
    geometry = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return channels_last(functional.conv_transpose2d(channels_first(x), kernel, bias, **geometry))


def _kernel(weight, channels):
    """(k² · channels, others) -> (others, channels, k, k)."""
    side = round((weight.shape[0] / channels) ** 0.5)
    return weight.view(side, side, channels, -1).permute(3, 2, 0, 1).contiguous()
