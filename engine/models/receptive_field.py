"""Receptive field of a network, and the halo and memory that follow from it."""

import math
from fractions import Fraction

from engine.layers import Module

FLOAT32_BYTES = 4


def reach(net: Module) -> int:
    """The largest distance, in pixels, between an output pixel and an input pixel that it depends on."""
    return max(
        max(pixel - first, last - pixel)
        for pixel in range(net.stride)
        for first, last in [net.inputs_of(pixel, pixel)]
    )


def halo(net: Module) -> int:
    """Neighbouring pixels that a window needs on each side: the reach, rounded up to the stride."""
    return -(-reach(net) // net.stride) * net.stride


def bytes_per_pixel(net: Module) -> int:
    """Upper bound for the memory of a forward pass, for each pixel of its input. Weights are not counted."""
    return math.ceil(net.memory(Fraction(1), FLOAT32_BYTES))
