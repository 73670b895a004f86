"""Small networks with random weights, and random images, for tests of inference."""

import torch

from engine.layers import Sequential, parameters
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.oracle import randomised


def network(config):
    net = randomised(build_network(config))
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = parameter.value.float()
    return net


def image(height, width, seed=0):
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


# Halos of 10, 32 and 88 pixels, and of 4 for the autoencoders: below a grid cell, a cell, more than two cells.
NETWORKS = [
    network(UNetConfig((4,), (1,))),
    network(UNetConfig((4, 4), (1, 2, 1))),
    network(UNetConfig((4, 4, 4), (1, 1, 3, 1, 1))),
    network(AutoencoderConfig(4, "text")),
    network(AutoencoderConfig(4, "weights")),
]


class Averaging(Sequential):
    """Replaces each pixel by the mean of the square of this side around it."""

    def __init__(self, side):
        super().__init__(NETWORKS[0])
        self.reach = range(-(side // 2), side // 2 + 1)

    def forward(self, x, train=False):
        shifts = [(down, across) for down in self.reach for across in self.reach]
        return sum(x.roll(shift, (1, 2)) for shift in shifts) / len(shifts)
