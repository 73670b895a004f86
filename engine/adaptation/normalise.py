"""Normalisation for training: the one that serving has, with the noise law measured over all scenes.

Samples of any range, signed or floating point, become what the networks know. Nothing is clipped or rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.adaptation.doctor.scene_check import SceneCheck
from engine.adaptation.scenes import Shot
from engine.data.noise.anscombe import NoiseLaw
from engine.imageio.image import WHITE
from engine.inference.noise_estimation.blocks import tiles_of
from engine.inference.noise_estimation.config import DEFAULT_CONFIG
from engine.inference.noise_estimation.law_of_channels import laws_of_channels
from engine.inference.noise_estimation.law_of_stack import GROUP, MAX_STACKS, estimate_law_of_stacks
from engine.inference.noise_estimation.noise_law import LawEstimate
from engine.inference.normalisation import Normalisation, normalisation_for


@dataclass(frozen=True)
class ScenesNormalisation:
    """Gives the normalisation of each image of a camera. laws: of each channel, or none."""

    laws: tuple[NoiseLaw, ...] = ()

    def of(self, samples: Tensor) -> Normalisation:
        """samples: (H, W, C), in the type that their file has. As in serving, with the laws of all scenes."""
        found = normalisation_for(samples, self.laws_for(samples.shape[2]))
        if found is not None:
            return found
        # A photograph, which serving takes as it is. So does training.
        return Normalisation((), torch.zeros(samples.shape[2]), float(WHITE[samples.dtype]))

    def laws_for(self, channels: int) -> tuple[NoiseLaw, ...]:
        """The laws of an image with so many channels: grey takes the middle one, and colour all the same."""
        if not self.laws or len(self.laws) == channels:
            return self.laws
        return (self.laws[len(self.laws) // 2],) * channels


def measure_laws(checks: Sequence[SceneCheck]) -> tuple[LawEstimate, ...]:
    """The noise law of each channel over all scenes. () if the noise does not grow with brightness for certain.

    Differences of shots measure it, if scenes have several shots; single shots measure it in flat places.
    """
    checks = _of_one_kind(checks)
    several = [shots for check in _spread(checks) if len(shots := _successive(check)) > 1]
    if not several:
        return _middle_laws(checks)
    stacks = [[shot.read() for shot in shots] for shots in several]
    tiles = torch.cat([tiles_of(frames[0], DEFAULT_CONFIG) for frames in stacks])
    return tuple(laws_of_channels(estimate_law_of_stacks(stacks), tiles))


def _of_one_kind(checks: Sequence[SceneCheck]) -> list[SceneCheck]:
    """The scenes of the most frequent size and number of channels."""
    kinds = [(check.scene.size, check.scene.channels) for check in checks]
    usual = max(set(kinds), key=lambda kind: (kinds.count(kind), kind)) if kinds else None
    return [check for check, kind in zip(checks, kinds, strict=True) if kind == usual]


def _spread(checks: Sequence[SceneCheck]) -> list[SceneCheck]:
    """At most MAX_STACKS scenes, spread evenly."""
    count = min(len(checks), MAX_STACKS)
    return [checks[index * len(checks) // count] for index in range(count)]


def _successive(check: SceneCheck) -> list[Shot]:
    return [each.shot for each in check.shots if each.used][:GROUP]


def _middle_laws(checks: Sequence[SceneCheck]) -> tuple[LawEstimate, ...]:
    """Of the scene that lies in the middle by its gain."""
    laws = sorted((check.laws for check in checks if check.laws), key=lambda each: each[0].law.gain)
    # Laws of single shots that are not certain are no reason to change the samples.
    certain = [each for each in laws if all(law.confident for law in each)]
    return certain[len(certain) // 2] if 2 * len(certain) > len(checks) else ()
