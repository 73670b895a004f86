"""Result of an adaptation: what came in, what was measured, and whether the weights may be published."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.adaptation.examine import Examination
from engine.adaptation.gate import Verdict
from engine.adaptation.quality import Estimate, SceneError
from engine.data.noise.anscombe import NoiseLaw
from engine.inference.noise_estimation.noise_law import LawEstimate


@dataclass(frozen=True)
class CurvePoint:
    """The gain over the noisy shots of held-out scenes, after so many minutes of training."""

    minutes: float
    step: int
    gain: Estimate


@dataclass(frozen=True)
class DenoisedShot:
    """A held-out shot and what weights make of it: float (H, W, C) each, in the file's units.

    before: by the weights in service. denoised: by the adapted ones. masked: bool (H, W), pixels that moved or
    are clipped. laws: of the noise in each channel, or none. other: another noisy shot, which lies on this one.
    """

    name: str
    noisy: Tensor
    denoised: Tensor
    before: Tensor | None = None
    masked: Tensor | None = None
    laws: tuple[NoiseLaw, ...] = ()
    other: Tensor | None = None

    @property
    def residual(self) -> Tensor:
        """What denoising removes."""
        return self.noisy - self.denoised

    @property
    def kept(self) -> Tensor:
        """Bool (H, W): pixels that are not masked."""
        if self.masked is None:
            return torch.ones(self.noisy.shape[:2], dtype=torch.bool)
        return ~self.masked


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation made of a folder of noisy shots.

    laws: the noise law of each channel, measured over all scenes; empty if the noise does not grow with
    brightness for certain. held_out: names of the scenes that training has not seen, in the order of `errors`.
    errors: of the weights in service first, and then of the adapted ones. judged_by: how errors were estimated
    without a clean image, in words. verdict: whether the weights may be published, and if not, why. curve: in
    order of time; its first point is of the start. weights: the file, which has another name if the verdict is
    against it. digest: SHA-256 of the file. start: the name of the weights from which training began.
    in_service: of those that the adapted ones are compared with. start_digest, in_service_digest: of the files.
    versions: by package. command: that repeats it. shots: the first of each held-out scene, denoised.
    stopped: whether a signal ended the training.
    """

    folder: Path
    examination: Examination
    laws: tuple[LawEstimate, ...]
    held_out: tuple[str, ...]
    errors: tuple[SceneError, ...]
    judged_by: str
    verdict: Verdict
    curve: tuple[CurvePoint, ...]
    weights: Path
    digest: str
    start: str
    start_digest: str
    in_service: str
    in_service_digest: str
    seed: int
    minutes: float
    steps: int
    versions: dict[str, str]
    command: str
    shots: tuple[DenoisedShot, ...] = ()
    stopped: bool = False

    @property
    def law(self) -> LawEstimate | None:
        """The noise law of the channel in the middle."""
        return self.laws[len(self.laws) // 2] if self.laws else None

    @property
    def passed(self) -> bool:
        """Whether the weights may be published."""
        return self.verdict.passed
