"""The named architectures, how each role's weights start, and what a network needs around a window."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any, TypeVar

import torch
from torch import Tensor

from engine.layers import (
    CastTo,
    Conv2d,
    ConvStack,
    ConvTranspose2d,
    Module,
    PixelResidual,
    ResBlock,
    Sequential,
    Sigmoid,
    Skip,
    Upsampling,
    parameters,
)

CHANNELS = 3
L = TypeVar("L", Conv2d, ConvTranspose2d)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The report's network. geometry: "text" has conv 2, 2, 0 and upsampling 3, 2, 1 (kernel, stride, padding),
    "weights" conv 3, 2, 1 and upsampling 2, 2, 0, which is what the authors' own weights fit.
    """

    hidden: int = 256
    geometry: str = "weights"

    def __post_init__(self) -> None:
        _check_positive("hidden", self.hidden)
        if self.geometry not in ("text", "weights"):
            raise ValueError(f'geometry is "text" or "weights"; got {self.geometry!r}')


@dataclass(frozen=True)
class UNetConfig:
    """The bias-free residual U-Net. channels: one width a level, at 1/2, 1/4, ... of the size; blocks: how many
    residual blocks at each level on the way down, at the lowest, and on the way up. The defaults are size S.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 1, 3, 1, 1)

    def __post_init__(self) -> None:
        for name in ("channels", "blocks"):
            for value in getattr(self, name):
                _check_positive(name, value, least=0 if name == "blocks" else 1)
        if not self.channels or len(self.blocks) != 2 * len(self.channels) - 1:
            raise ValueError(
                f"{len(self.channels)} levels of channels take {2 * len(self.channels) - 1} numbers of blocks;"
                f" got {len(self.blocks)}"
            )


NetworkConfig = AutoencoderConfig | UNetConfig
SPECS: dict[str, type[AutoencoderConfig] | type[UNetConfig]] = {"paper": AutoencoderConfig, "photo": UNetConfig}


def kind_of(spec: NetworkConfig) -> str:
    """The architecture's name: "paper" or "photo"."""
    return next(kind for kind, type_ in SPECS.items() if type_ is type(spec))


def config_to_dict(spec: NetworkConfig) -> dict[str, Any]:
    """As it travels in a weights file: {"kind": ..., and the spec's own fields}."""
    return {"kind": kind_of(spec), **asdict(spec)}


def config_from_dict(values: dict[str, Any]) -> NetworkConfig:
    """Undoes spec_to_dict. Raises ValueError naming a kind or a field that is not known."""
    values = dict(values)
    kind = values.pop("kind", None)
    if kind not in SPECS:
        raise ValueError(f"a network's kind is one of {', '.join(SPECS)}; got {kind!r}")
    known = {field.name for field in fields(SPECS[kind])}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{kind} networks take {', '.join(sorted(known))}; got {', '.join(unknown)}")
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return SPECS[kind](**given)


def build_network(
    spec: NetworkConfig, rng: torch.Generator | None = None, compute: torch.dtype = torch.float32
) -> Module:
    """A network with freshly drawn weights: (N, H, W, 3) on [0, 1] -> the same shape, the noise removed.

    H and W are multiples of the network's `stride`. compute: the type that products run in.
    """
    if isinstance(spec, AutoencoderConfig):
        return _paper(spec, rng, compute)
    return _photo(spec, rng, compute)


def reach(net: Module) -> int:
    """How many pixels away, at most, an input pixel can be and still change an output pixel."""
    return max(
        max(pixel - first, last - pixel)
        for pixel in range(net.stride)
        for first, last in [net.inputs_of(pixel, pixel)]
    )


def halo(net: Module) -> int:
    """Pixels of real neighbours a window needs on each side: the reach, rounded up to the stride."""
    return -(-reach(net) // net.stride) * net.stride


def bytes_per_pixel(net: Module) -> int:
    """Memory of a forward pass, at most, for each pixel of its input, beside weights and what a task works in."""
    return math.ceil(net.memory(Fraction(1), 4))


def parameter_count(net: Module) -> int:
    """How many numbers training can change."""
    return sum(parameter.value.numel() for parameter in parameters(net))


def _paper(spec: AutoencoderConfig, rng: torch.Generator | None, compute: torch.dtype) -> Module:
    # Kernel size, stride, padding; for upsampling also dilation and output_padding: a kernel of 3 at stride 2
    # leaves one row short of twice the size.
    if spec.geometry == "text":
        down, up = (2, 2, 0), (3, 2, 1, 1, 1)
    else:
        down, up = (3, 2, 1), (2, 2, 0, 1, 0)
    hidden = spec.hidden
    return Sequential(
        CastTo(
            compute,
            ConvStack(
                Conv2d(CHANNELS, hidden, *down, rng=rng),
                Conv2d(hidden, hidden, *down, rng=rng),
                Upsampling(hidden, hidden, *up, rng=rng),
                Upsampling(hidden, CHANNELS, *up, rng=rng),
            ),
        ),
        Sigmoid(),
    )


def _photo(spec: UNetConfig, rng: torch.Generator | None, compute: torch.dtype) -> Module:
    widest = spec.channels[0]
    head = _conv3(4 * CHANNELS, widest, 1.0, rng)
    # A tail of zeros: before training the network gives back its input.
    tail = _conv3(widest, 4 * CHANNELS, 0.0, rng)
    body = _level(spec.channels, spec.blocks, rng)
    return PixelResidual(CHANNELS, 2, compute, head, *body, tail)


def _level(channels: tuple[int, ...], blocks: tuple[int, ...], rng: torch.Generator | None) -> Iterator[Module]:
    """Blocks, then the lower levels with a skip around them, then blocks."""
    width, *lower = channels
    for _ in range(blocks[0]):
        yield _block(width, rng)
    if not lower:
        return
    yield Skip(
        _scaled(Conv2d(width, lower[0], 2, 2, bias=False, rng=rng), 1.0, rng),
        list(_level(tuple(lower), blocks[1:-1], rng)),
        _scaled(ConvTranspose2d(lower[0], width, 2, 2, bias=False, rng=rng), 1.0, rng),
    )
    for _ in range(blocks[-1]):
        yield _block(width, rng)


def _block(width: int, rng: torch.Generator | None) -> Module:
    # Each block adds to what it is given: He's spread in the second convolution as well makes the signal grow
    # block by block, and zero there lets it blow up later. A small spread trains well.
    first, second = _conv3(width, width, 2**0.5, rng), _conv3(width, width, 0.3, rng)
    return ResBlock(first, second)


def _conv3(in_channels: int, out_channels: int, gain: float, rng: torch.Generator | None) -> Conv2d:
    return _scaled(Conv2d(in_channels, out_channels, 3, padding=1, bias=False, rng=rng), gain, rng)


def _scaled(layer: L, gain: float, rng: torch.Generator | None) -> L:
    """The layer with its weights drawn anew: standard deviation gain · sqrt(1 / fan_in)."""
    weight: Tensor = layer.params["weight"]
    layer.params["weight"] = torch.randn(weight.shape, generator=rng) * (gain / layer.fan_in**0.5)
    return layer


def _check_positive(name: str, value: Any, least: int = 1) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} takes whole numbers of at least {least}; got {value!r}")
