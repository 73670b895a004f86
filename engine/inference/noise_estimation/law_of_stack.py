"""Noise law of a stack: frames of one scene, in which differences between frames hold noise and no texture."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.inference.noise_estimation.blocks import tiles_of
from engine.inference.noise_estimation.config import DEFAULT_CONFIG
from engine.inference.noise_estimation.law_bins import Residual, law_bins
from engine.inference.noise_estimation.noise_law import (
    MIN_VARIANCE,
    LawEstimate,
    estimate_from_bins,
    estimate_law,
)

# Groups of successive frames that are looked at, spread evenly over the stack, and pixels of a frame, all groups
# together.
MAX_GROUPS = 4
MAX_STACKS = 32
MAX_PIXELS = 2**20
# Frames of a group. Twice the middle one less the two others: a brightness that drifts evenly cancels out, and so
# does a still scene. The weights' sum of squares and of cubes turn this into variance and third cumulant.
GROUP = 3
SUM_OF_SQUARES = 6.0
SUM_OF_CUBES = 6.0
# Variance between frames: of frames two apart over that of frames one apart, and of two frames over that within a
# frame. Noise that lasts from frame to frame, as a detector's lag does, has more in
# the first and less in the second.
MAX_RATIO = 1.25
MIN_RATIO = 0.75


def estimate_law_of_stack(frames: Sequence[Tensor]) -> tuple[LawEstimate | None, ...]:
    """frames: float32 (H, W, C) of one size, in any unit and order of time. One estimate for each channel.

    Cells that moved are rough in the difference of frames and are left out, like texture in a single image. The
    law is measured within frames where that says too little: if there are fewer than two frames, if all moves,
    and if noise lasts from frame to frame.
    """
    return estimate_law_of_stacks([frames])


def estimate_law_of_stacks(stacks: Sequence[Sequence[Tensor]]) -> tuple[LawEstimate | None, ...]:
    """The same for stacks of several scenes that one camera recorded. All frames have one size.

    stacks: at most MAX_STACKS. If one of them has two frames, two successive frames of each are compared.
    """
    if not stacks or not all(stacks):
        raise ValueError("The stack has no frames. The noise law needs at least one.")
    if len(stacks) > MAX_STACKS:
        raise ValueError(f"There are {len(stacks)} stacks, and the noise law takes at most {MAX_STACKS}.")
    size = min(GROUP, min(map(len, stacks)))
    most = max(1, MAX_GROUPS // len(stacks))
    groups = [group for frames in stacks for group in _groups(frames, size, most)]
    # One frame: of several, the flattest cells would come from the frame that has least noise.
    within = estimate_law(_tiles([frames[len(frames) // 2] for frames in stacks]))
    if size == 1:
        return within
    middle = _tiles([group[len(group) // 2] for group in groups])
    near = _between(middle, _tiles([_difference(group) for group in groups]), len(groups[0]))
    far = _between(middle, _tiles([(group[-1] - group[0]) / 2**0.5 for group in groups]), 2)
    return tuple(_better(*estimates) for estimates in zip(near, far, within, strict=True))


def estimate_law_against_mean(shot: Tensor, mean: Tensor) -> tuple[LawEstimate | None, ...]:
    """The law of a noisy image, from its difference to the mean of many that lie on it and are as bright.

    shot, mean: float32 (H, W, C), in the shot's unit. One estimate for each channel.
    """
    signal, noise = _tiles([mean]), _tiles([shot - mean])
    pairs = zip(signal.unbind(3), noise.unbind(3), strict=True)
    return tuple(estimate_from_bins(law_bins(level, Residual(samples, 1.0))) for level, samples in pairs)


def _between(middle: Tensor, noise: Tensor, size: int) -> list[LawEstimate | None]:
    """The law of each channel by the differences in groups of that size."""
    third_scale = SUM_OF_SQUARES**1.5 / SUM_OF_CUBES if size == GROUP else 0.0
    pairs = zip(middle.unbind(3), noise.unbind(3), strict=True)
    return [estimate_from_bins(law_bins(signal, Residual(samples, third_scale))) for signal, samples in pairs]


def _groups(frames: Sequence[Tensor], size: int, most: int) -> list[Sequence[Tensor]]:
    """Groups of so many successive frames, spread evenly: at most `most` of them."""
    last = len(frames) - size
    count = min(most, len(frames) // size)
    return [frames[start : start + size] for start in (last * i // max(count - 1, 1) for i in range(count))]


def _difference(group: Sequence[Tensor]) -> Tensor:
    """What differs between the frames of a group, scaled to the variance of one frame's noise."""
    if len(group) < GROUP:
        return (group[1] - group[0]) / 2**0.5
    difference: Tensor = (2 * group[1] - group[0] - group[2]) / SUM_OF_SQUARES**0.5
    return difference


def _tiles(images: list[Tensor]) -> Tensor:
    config = replace(DEFAULT_CONFIG, max_pixels=MAX_PIXELS // len(images))
    return torch.cat([tiles_of(image, config) for image in images])


def _better(near: LawEstimate | None, far: LawEstimate | None, within: LawEstimate | None) -> LawEstimate | None:
    """The law between frames, or the law within frames if noise lasts from frame to frame or all moves."""
    if near is None or within is None or (within.confident and not near.confident):
        return within or near
    lasts = (far is not None and _ratio(far, near) > MAX_RATIO) or (
        within.confident and _ratio(near, within) < MIN_RATIO
    )
    return within if lasts else near


def _ratio(first: LawEstimate, second: LawEstimate) -> float:
    """Variance of the first law over that of the second, in the middle of the measured points."""
    brightness = torch.tensor(second.points[len(second.points) // 2].brightness)
    return float(first.law.variance(brightness) / second.law.variance(brightness).clamp(min=MIN_VARIANCE))
