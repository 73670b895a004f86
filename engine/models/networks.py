"""Registry of network kinds: builds a network from its configuration, and converts configurations to JSON."""

from dataclasses import asdict, fields
from typing import Any

import torch

from engine.layers import Module, parameters
from engine.models.autoencoder import AutoencoderConfig, build_autoencoder
from engine.models.unet import UNetConfig, build_unet

NetworkConfig = AutoencoderConfig | UNetConfig
# By the kind's name in weights files.
CONFIGS: dict[str, type[AutoencoderConfig] | type[UNetConfig]] = {"paper": AutoencoderConfig, "photo": UNetConfig}


def build_network(
    config: NetworkConfig, rng: torch.Generator | None = None, compute: torch.dtype = torch.float32
) -> Module:
    """A network with random weights: (N, H, W, 3) on [0, 1] -> the same shape, denoised.

    H and W must be multiples of the network's `stride`. compute: the type that products run in.
    """
    if isinstance(config, AutoencoderConfig):
        return build_autoencoder(config, rng, compute)
    return build_unet(config, rng, compute)


def kind_of(config: NetworkConfig) -> str:
    """The architecture's name: "paper" or "photo"."""
    return next(kind for kind, type_ in CONFIGS.items() if type_ is type(config))


def config_to_dict(config: NetworkConfig) -> dict[str, Any]:
    """The form in a weights file: {"kind": ..., and the config's fields}."""
    return {"kind": kind_of(config), **asdict(config)}


def config_from_dict(values: dict[str, Any]) -> NetworkConfig:
    """Inverse of config_to_dict. Raises ValueError naming an unknown kind or field."""
    values = dict(values)
    kind = values.pop("kind", None)
    if kind not in CONFIGS:
        raise ValueError(f"a network's kind is one of {', '.join(CONFIGS)}; got {kind!r}")
    known = {field.name for field in fields(CONFIGS[kind])}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{kind} networks take {', '.join(sorted(known))}; got {', '.join(unknown)}")
    # JSON has lists where the config has tuples.
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return CONFIGS[kind](**given)


def parameter_count(net: Module) -> int:
    """Number of trainable values."""
    return sum(parameter.value.numel() for parameter in parameters(net))
