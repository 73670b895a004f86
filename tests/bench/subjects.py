"""Networks and images to measure. The names are those of the documentation."""

from collections.abc import Mapping

import torch

from engine.layers import Module, parameters
from engine.models.networks import AutoencoderConfig, NetworkConfig, UNetConfig, build_network

NETWORKS: Mapping[str, NetworkConfig] = {
    "S": UNetConfig((32, 64, 128), (1, 1, 3, 1, 1)),
    "M": UNetConfig((48, 96, 192), (1, 1, 4, 1, 1)),
    "L": UNetConfig((64, 128, 256), (2, 2, 6, 2, 2)),
    "paper": AutoencoderConfig(),
}


def network(spec: NetworkConfig, precision: torch.dtype = torch.float32) -> Module:
    """A network whose weights are all random. A fresh U-Net returns its input, which would hide errors."""
    rng = torch.Generator().manual_seed(0)
    net = build_network(spec, rng, precision)
    for parameter in parameters(net):
        if not parameter.value.any():
            spread = 0.3 / max(1, parameter.value.numel() // parameter.value.shape[-1]) ** 0.5
            parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng) * spread
    return net


def on(net: Module, device: str) -> Module:
    """The network with its parameters on a device."""
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = parameter.value.to(device)
    return net


def image(height: int, width: int) -> torch.Tensor:
    """float32 (height, width, 3) on [0, 1]: smooth waves with noise of standard deviation 25 / 255."""
    rng = torch.Generator().manual_seed(0)
    y, x = torch.arange(height).view(-1, 1, 1) / 40, torch.arange(width).view(1, -1, 1) / 30
    waves = 0.5 + 0.2 * torch.sin(y + torch.tensor([0.0, 1, 2])) + 0.2 * torch.cos(x)
    return (waves + 25 / 255 * torch.randn(height, width, 3, generator=rng)).clamp(0, 1)
