"""Scenes of shots as training sees them, made of tensors."""

import torch

from engine.adaptation.shots import SceneShots
from engine.inference.normalisation import Normalisation, normalisation_for

SIDE = 40
PLAIN = Normalisation((), torch.zeros(1), 1.0)


def scene_of(shots, use="shots", usable=None, shifts=None, lag=1, name="scene", laws=()):
    """A scene without normalisation, unless there are laws."""
    whole = torch.ones(shots[0].shape[:2], dtype=torch.bool)
    return SceneShots(
        name,
        use,
        tuple(shots),
        tuple(usable or [whole] * len(shots)),
        tuple(shifts or [(0, 0)] * len(shots)),
        normalisation_for(shots[0], laws) if laws else PLAIN,
        laws,
        lag,
    )


def numbered(count, side=SIDE):
    """Shots whose samples are the shot's number."""
    return [torch.full((side, side, 1), float(number)) for number in range(count)]
