"""Planes: means over squares, blocks and bins of brightness, shared by the doctor's checks."""

import torch
from torch import Tensor

# Bins of brightness, and the least number of pixels in each.
BINS = 16
MIN_MEMBERS = 1024
# One of so many pixels is darker than the dark of the scene.
DARK = 100
# Values beyond so many standard deviations are left out, and how often that is repeated.
CLIP = 4.0
CLIP_ROUNDS = 5


def box_mean(planes: Tensor, radius: int) -> Tensor:
    """(H, W, ...) -> means over squares of 2 * radius + 1 pixels a side; at the borders, of what is inside."""
    made = planes
    for axis in (0, 1):
        size = made.shape[axis]
        sums = torch.cat((torch.zeros_like(made.narrow(axis, 0, 1)), made.cumsum(axis)), axis)
        place = torch.arange(size)
        high, low = (place + radius + 1).clamp(max=size), (place - radius).clamp(min=0)
        shape = [1] * made.dim()
        shape[axis] = size
        made = (sums.index_select(axis, high) - sums.index_select(axis, low)) / (high - low).view(shape)
    return made


def grey(shot: Tensor) -> Tensor:
    """float (H, W, C) -> float64 (H, W): the mean of the channels."""
    return shot.double().mean(2)


def slope_size(plane: Tensor) -> Tensor:
    """(H, W): how much the plane changes from pixel to pixel, at most."""
    down, across = torch.gradient(plane)
    return (down.square() + across.square()).sqrt()


def deviation_by_brightness(values: Tensor, brightness: Tensor, growing: bool = False) -> Tensor:
    """(H, W): the standard deviation of values of the same brightness, without what lies far out.

    values: of mean 0. Neighbouring bins of brightness hold equal numbers of pixels. growing: in a bin, brighter
    pixels may have more noise, as much as photons have: among the bright pixels, those of stars are far brighter.
    """
    flat, level = values.flatten(), brightness.flatten()
    order = level.argsort()
    dark = level[order[len(order) // DARK]]
    deviations = torch.empty_like(flat)
    for members in order.tensor_split(max(1, min(BINS, len(order) // MIN_MEMBERS))):
        deviations[members] = clipped_deviation(flat[members])
        light = level[members] - dark
        if growing and float(light.mean()) > 0:
            deviations[members] *= (light / light.mean()).clamp(min=1).sqrt()
    return deviations.view_as(values)


def clipped_deviation(values: Tensor) -> float:
    """Standard deviation from 0 of those values that lie within CLIP deviations."""
    deviation = float(values.square().mean().sqrt())
    for _ in range(CLIP_ROUNDS):
        inside = values[values.abs() <= CLIP * deviation]
        if not len(inside):
            break
        deviation = float(inside.square().mean().sqrt())
    return deviation
