"""Duplicates: shots that are equal, or equal in parts, as frames of compressed video are.

Two shots with noise of their own are equal in single pixels, by chance, and hardly ever in whole squares. So
equal squares are counted, less those that chance makes at the same brightness.
"""

import hashlib

import torch
from torch import Tensor

from engine.adaptation.doctor.planes import BINS, MIN_MEMBERS

# Side of a square, in pixels.
SIDE = 4
# Share of the squares that must be equal, beyond chance.
MIN_SHARE = 0.02
# From this share of equal pixels on, the second shot says nothing new.
SAME = 0.999


def equal_share(first: Tensor, second: Tensor) -> float:
    """The share of two shots (H, W, C) that is equal and not by chance. 0 for shots with noise of their own."""
    equal = (first == second).all(2)
    share = float(equal.double().mean())
    if share >= SAME:
        return 1.0
    height, width = (size // SIDE * SIDE for size in equal.shape)
    if not height or not width:
        return 0.0

    def squares(plane: Tensor) -> Tensor:
        parts = plane[:height, :width].reshape(height // SIDE, SIDE, width // SIDE, SIDE)
        return parts.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)

    brightness = squares((first + second).double().mean(2))
    of_square = squares(equal.double())
    # What is the same everywhere, such as black, holds no noise that could differ.
    low, high = first.double().amax(2), first.double().amin(2)
    values = squares(torch.maximum(low, high))
    varied = values.amax(1) > values.amin(1)
    if not bool(varied.any()):
        return 0.0
    whole = of_square.mean(1) == 1
    chance = _by_chance(of_square[varied], brightness[varied].mean(1))
    found = float(whole[varied].double().mean()) - chance
    return found if found > MIN_SHARE else 0.0


def _by_chance(of_square: Tensor, brightness: Tensor) -> float:
    """The share of squares that are equal if each pixel is so by chance, with the share of its brightness."""
    order = brightness.argsort()
    total = 0.0
    for members in order.tensor_split(max(1, min(BINS, len(order) * SIDE**2 // MIN_MEMBERS))):
        part = of_square[members]
        # Squares that are equal as a whole are what is asked for.
        rest = part[part.mean(1) < 1]
        share = float(rest.mean()) if len(rest) else 0.0
        total += len(members) * share ** (SIDE**2)
    return total / len(order)


def digest(shot: Tensor) -> bytes:
    """Of the samples: equal for equal shots alone."""
    return hashlib.blake2b(shot.contiguous().numpy().tobytes(), digest_size=16).digest()
