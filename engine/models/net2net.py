"""Net2Net: starts a larger network from a trained smaller one that gives the same images."""

from collections import deque
from collections.abc import Iterator, Sequence

from torch import Tensor

from engine.layers import Conv2d, ConvTranspose2d, Module, ResBlock, parameters

Convolution = Conv2d | ConvTranspose2d


def grow(small: Module, large: Module) -> None:
    """Copy a network's weights into a newly built one of the same kind that is wider, has more blocks, or both.

    The large network then gives the same output as the small one: old channels have zero weights for new ones,
    and new blocks add nothing. New channels keep their random weights, so no two of them learn the same.
    Raises ValueError, and changes nothing, if the small network does not fit into the large one.
    Source: Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, section 2, where new channels are copies of old ones.
    """
    for old, new in list(_pairs([small], [large])):
        if isinstance(old, Convolution) and isinstance(new, Convolution):
            new.params = {key: _with_old_weights(old, new, key) for key in new.params}
        else:
            for parameter in parameters(new.layers[-1]):
                parameter.layer.params[parameter.key] = parameter.value.new_zeros(parameter.value.shape)


def _pairs(small: Sequence[Module], large: Sequence[Module]) -> Iterator[tuple[Module | None, Module]]:
    """Each convolution of the small network with its counterpart, and None with each new block."""
    remaining = deque(small)
    for new in large:
        if _is_block(new) and not (remaining and _is_block(remaining[0])):
            yield None, new
            continue
        if not remaining or not _can_hold(new, remaining[0]):
            raise ValueError(
                "the smaller network does not fit into the larger one: both must have the same kind and levels, "
                "and the larger one at least as many channels and blocks at each level"
            )
        old = remaining.popleft()
        if isinstance(new, Convolution):
            yield old, new
        yield from _pairs(old.layers, new.layers)
    if remaining:
        raise ValueError("the larger network has fewer layers than the smaller one")


def _is_block(layer: Module) -> bool:
    return isinstance(layer, ResBlock)


def _can_hold(new: Module, old: Module) -> bool:
    """Whether the new layer can compute what the old one computes."""
    if isinstance(old, Convolution) and isinstance(new, Convolution):
        same = type(old) is type(new) and old.geometry == new.geometry and old.params.keys() == new.params.keys()
        return same and old.in_channels <= new.in_channels and old.out_channels <= new.out_channels
    return type(old) is type(new) and _is_block(old) == _is_block(new)


def _with_old_weights(old: Convolution, new: Convolution, key: str) -> Tensor:
    """The new layer's parameter with the old one in it, and zeros where old channels would read new ones."""
    value: Tensor = new.params[key].clone()
    if key == "bias":
        value[: old.out_channels] = old.params[key]
        return value
    to_old_channels = _by_channels(new, value)[..., : old.out_channels]
    to_old_channels.zero_()
    to_old_channels[: old.in_channels] = _by_channels(old, old.params[key])
    return value


def _by_channels(layer: Convolution, weight: Tensor) -> Tensor:
    """A view of a weight: (in_channels, kernel_size², out_channels)."""
    if isinstance(layer, ConvTranspose2d):
        taps: Tensor = weight.view(layer.in_channels, -1, layer.out_channels)
        return taps
    taps = weight.view(-1, layer.in_channels, layer.out_channels)
    return taps.transpose(0, 1)
