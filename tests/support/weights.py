"""Weights files, valid and invalid, and what a registry serves of them."""

import safetensors.torch
import torch

from engine.layers import parameters
from engine.models import checkpoint
from engine.models.networks import UNetConfig, build_network

SPEC = UNetConfig((4, 6), (1, 1, 1))


def settle(registry):
    """Scan twice: a file that does not change is loaded at the second scan."""
    registry.refresh()
    registry.refresh()


def served(registry):
    return {name: model.digest for name, model in registry.models.by_name.items()}


def faults(registry):
    return {fault.file: fault.reason for fault in registry.models.faults.values()}


def truncated(file, save_tiny):
    data = save_tiny(file, seed=1).read_bytes()
    file.write_bytes(data[: len(data) // 2])


def with_weights(value):
    def write(file, save_tiny):
        net = build_network(SPEC)
        for parameter in parameters(net):
            parameter.layer.params[parameter.key] = torch.full_like(parameter.value, value)
        checkpoint.save(file, net, SPEC, {})

    return write


def of_another_kind(file, save_tiny):
    safetensors.torch.save_file({"features.0.weight": torch.zeros(3)}, file, {"format": "pt"})


def of_no_known_network(file, save_tiny):
    about = {"format": checkpoint.FORMAT, "network": '{"kind": "transformer"}'}
    safetensors.torch.save_file({"0.weight": torch.zeros(3)}, file, about)


# Functions that write an invalid file, and the reason that the registry gives.
INVALID = [
    (truncated, "cannot load weights"),
    (lambda file, save_tiny: file.write_bytes(b""), "cannot load weights"),
    (of_another_kind, "format 'pt'; this version reads 'denoise-1'"),
    (of_no_known_network, "one of paper, photo; got 'transformer'"),
    (with_weights(float("nan")), "has values that are not finite numbers"),
    (with_weights(1e30), "unusable weights: denoising a check image gave values that are not finite numbers"),
    (with_weights(3.0), "further from the clean one than a black or a white image"),
]
