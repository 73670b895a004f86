"""Crops of held-out shots: noisy, denoised and the residual, with the contrast that their brightness needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.adaptation.doctor.planes import box_mean
from engine.adaptation.result import DenoisedShot
from engine.evaluation.page import densest, detail
from engine.imageio.image import to_integers

# Side of a crop, in pixels: four of them fit beside each other.
SIDE = 224
# Shots that are shown, at most.
MAX_SHOTS = 4
# Shares of the denoised crop's samples that are darker than black, and darker than white.
BLACK_SHARE = 0.005
WHITE_SHARE = 0.995
# Standard deviations of the residual from grey to black and to white.
RESIDUAL_REACH = 3.0
# Radius of the squares in which a residual is averaged, to find where it has structure.
RADIUS = 2


@dataclass(frozen=True)
class Crop:
    """A part of a shot. reason: why it was chosen. top, left: its corner, in pixels.

    black, white: the brightness that is shown so. residual_reach: the residual that is shown black, with a minus,
    and white. images: captions and uint8 (H, W, 1 or 3).
    """

    shot: str
    reason: str
    top: int
    left: int
    black: float
    white: float
    residual_reach: float
    images: tuple[tuple[str, Tensor], ...]


def crops_of(shots: Sequence[DenoisedShot]) -> tuple[Crop, ...]:
    """Two of each shot, where they differ: the residual with the most structure, and the most detail."""
    return tuple(crop for shot in shots[:MAX_SHOTS] for crop in _crops_of(shot))


def _crops_of(shot: DenoisedShot) -> list[Crop]:
    high, wide = (min(SIDE, length) for length in shot.noisy.shape[:2])
    residual = shot.residual.double()
    structure = box_mean((residual - residual.mean()) * shot.kept.unsqueeze(2), RADIUS).square().mean(2)
    top, left = densest(structure, (high, wide))
    elsewhere = detail(shot.denoised)
    elsewhere[top : top + high, left : left + wide] = 0
    reasons = {(top, left): "most structure in the residual"}
    reasons.setdefault(densest(elsewhere, (high, wide)), "most detail")
    return [_crop(shot, reason, *place, (high, wide)) for place, reason in reasons.items()]


def _crop(shot: DenoisedShot, reason: str, top: int, left: int, size: tuple[int, int]) -> Crop:
    inside = (slice(top, top + size[0]), slice(left, left + size[1]))
    noisy, denoised, residual = (each[inside].float() for each in (shot.noisy, shot.denoised, shot.residual))
    deviation = float(residual.std(unbiased=False))
    low, high = torch.quantile(denoised.flatten(), torch.tensor([BLACK_SHARE, WHITE_SHARE])).tolist()
    # Room for the noise, of which some is shown black or white.
    black, white = low - deviation, high + deviation
    if white <= black:
        black, white = black - 0.5, white + 0.5
    reach = RESIDUAL_REACH * deviation or 1.0
    shown = [("noisy", noisy, black, white)]
    if shot.before is not None:
        shown.append(("before: weights in service", shot.before[inside].float(), black, white))
    shown += [("denoised", denoised, black, white), ("residual: noisy - denoised", residual, -reach, reach)]
    images = tuple((name, to_integers((x - lo) / (hi - lo), torch.uint8)) for name, x, lo, hi in shown)
    return Crop(shot.name, reason, top, left, black, white, reach, images)
