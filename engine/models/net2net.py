"""A larger network that begins as a smaller one: it gives the same images, and training goes on from there."""

from collections import deque
from collections.abc import Iterator, Sequence

from torch import Tensor

from engine.layers import Conv2d, ConvTranspose2d, Module, ResBlock, parameters

Convolution = Conv2d | ConvTranspose2d


def grow(small: Module, large: Module) -> None:
    """Write a network's weights into a freshly drawn one of its kind that is wider, has more blocks, or both.

    No old channel reads a new one yet, and a new block adds nothing: the large network gives what the small one
    gives. What new channels read stays as it was drawn, so that no two of them learn the same. Raises ValueError,
    and changes nothing, if the large one has no place for the small one.
    Source: Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, section 2, where new channels are copies of old ones.
    """
    for old, new in list(_places([small], [large])):
        if isinstance(old, Convolution) and isinstance(new, Convolution):
            new.params = {key: _inside(old, new, key) for key in new.params}
        else:
            for parameter in parameters(new.layers[-1]):
                parameter.layer.params[parameter.key] = parameter.value.new_zeros(parameter.value.shape)


def _places(small: Sequence[Module], large: Sequence[Module]) -> Iterator[tuple[Module | None, Module]]:
    """Each convolution of the small network, and the one that takes its place; beside None, each new block."""
    waiting = deque(small)
    for new in large:
        if _is_block(new) and not (waiting and _is_block(waiting[0])):
            yield None, new
            continue
        if not waiting or not _takes(new, waiting[0]):
            raise ValueError("the larger network has no place for some layer of the smaller one")
        old = waiting.popleft()
        if isinstance(new, Convolution):
            yield old, new
        yield from _places(old.layers, new.layers)
    if waiting:
        raise ValueError("the larger network has fewer layers than the smaller one")


def _is_block(layer: Module) -> bool:
    return isinstance(layer, ResBlock)


def _takes(new: Module, old: Module) -> bool:
    """Whether a layer can take another's place."""
    if isinstance(old, Convolution) and isinstance(new, Convolution):
        alike = type(old) is type(new) and old.geometry == new.geometry and old.params.keys() == new.params.keys()
        return alike and old.in_channels <= new.in_channels and old.out_channels <= new.out_channels
    return type(old) is type(new) and _is_block(old) == _is_block(new)


def _inside(old: Convolution, new: Convolution, key: str) -> Tensor:
    """A parameter as drawn, with the old one in its corner, and zeros where old channels would read new ones."""
    value: Tensor = new.params[key].clone()
    if key == "bias":
        value[: old.out_channels] = old.params[key]
        return value
    corner = _by_channels(new, value)[..., : old.out_channels]
    corner.zero_()
    corner[: old.in_channels] = _by_channels(old, old.params[key])
    return value


def _by_channels(layer: Convolution, weight: Tensor) -> Tensor:
    """A view of a weight: (in_channels, kernel_size², out_channels)."""
    if isinstance(layer, ConvTranspose2d):
        taps: Tensor = weight.view(layer.in_channels, -1, layer.out_channels)
        return taps
    taps = weight.view(-1, layer.in_channels, layer.out_channels)
    return taps.transpose(0, 1)
