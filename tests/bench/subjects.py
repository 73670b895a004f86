"""The networks that are measured, by the names the documentation gives them."""

from collections.abc import Mapping

import torch

from engine.layers import Layer, slots
from engine.models.networks import NetworkSpec, PaperSpec, PhotoSpec, build_network

NETWORKS: Mapping[str, NetworkSpec] = {
    "S": PhotoSpec((32, 64, 128), (1, 1, 3, 1, 1)),
    "M": PhotoSpec((48, 96, 192), (1, 1, 4, 1, 1)),
    "L": PhotoSpec((64, 128, 256), (2, 2, 6, 2, 2)),
    "paper": PaperSpec(),
}


def network(spec: NetworkSpec, precision: torch.dtype = torch.float32) -> Layer:
    """A network whose weights are all drawn: as they start, a photo network gives back its input, and a path
    through it that is wrong would not be noticed.
    """
    rng = torch.Generator().manual_seed(0)
    net = build_network(spec, rng, precision)
    for slot in slots(net):
        if not slot.value.any():
            spread = 0.3 / max(1, slot.value.numel() // slot.value.shape[-1]) ** 0.5
            slot.layer.params[slot.key] = torch.randn(slot.value.shape, generator=rng) * spread
    return net


def on(net: Layer, device: str) -> Layer:
    """The network with its parameters on a device."""
    for slot in slots(net):
        slot.layer.params[slot.key] = slot.value.to(device)
    return net


def picture(height: int, width: int) -> torch.Tensor:
    """float32 (height, width, 3) on [0, 1]: gentle waves, and noise of a standard deviation of 25 / 255."""
    rng = torch.Generator().manual_seed(0)
    y, x = torch.arange(height).view(-1, 1, 1) / 40, torch.arange(width).view(1, -1, 1) / 30
    waves = 0.5 + 0.2 * torch.sin(y + torch.tensor([0.0, 1, 2])) + 0.2 * torch.cos(x)
    return (waves + 25 / 255 * torch.randn(height, width, 3, generator=rng)).clamp(0, 1)
