"""Shots of scenes as training sees them: normalised, equally bright, with what may not be learnt from marked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from engine.adaptation.doctor.brightness import apply
from engine.adaptation.doctor.clipping import MAX_AT_LIMIT, MIN_SHARE, SINGLE_RADIUS, Clipping
from engine.adaptation.doctor.correlation import MIN_CORRELATION
from engine.adaptation.doctor.planes import box_mean
from engine.adaptation.doctor.scene_check import SceneCheck, ShotCheck
from engine.adaptation.examine import Examination
from engine.adaptation.normalise import ScenesNormalisation
from engine.adaptation.scenes import LeftOut
from engine.data.noise.anscombe import NoiseLaw
from engine.data.registration import move
from engine.data.rng import seeded_generator
from engine.inference.noise_estimation.law_of_channels import laws_of_channels
from engine.inference.noise_estimation.law_of_stack import estimate_law_against_mean
from engine.inference.noise_estimation.noise_law import LawEstimate
from engine.inference.noise_estimation.value_range import range_of
from engine.inference.normalisation import Normalisation

# How a scene is learnt from. "shots": each shot has other shots as targets. "drawn": so has a single shot, since
# further shots were drawn from the mean of many. "single": its pixels have their neighbours as targets.
Use = Literal["shots", "drawn", "single"]
# Shots that are drawn from a mean.
DRAWN = 2
# The gain of a scene over that of all scenes, or the reverse, from which on the scene has a law of its own: some
# programs stretch the samples of each file.
MAX_GAIN_RATIO = 1.5


@dataclass(frozen=True)
class SceneShots:
    """The shots of one scene, which are equally bright.

    shots: float32 (H, W, C), in the file's units. usable: bool (H, W), of each. shifts: pixels down and right
    by which the content of each lies from that of the reference. lag: least distance of shots that do not
    share noise, in shots. normalisation: of all shots. laws: of each channel, or none.
    """

    name: str
    use: Use
    shots: tuple[Tensor, ...]
    usable: tuple[Tensor, ...]
    shifts: tuple[tuple[float, float], ...]
    normalisation: Normalisation
    laws: tuple[NoiseLaw, ...] = ()
    lag: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shots[0].shape[0], self.shots[0].shape[1]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.shots[0].shape[2]


def scene_shots(
    examination: Examination, normalisation: ScenesNormalisation, seed: int
) -> tuple[list[SceneShots], list[LeftOut]]:
    """The scenes that can be learnt from, and those that cannot, with reasons. seed: of shots that are drawn."""
    refused = {each.file for each in examination.findings if each.verdict == "left out"}
    scenes, left_out = [], []
    for number, check in enumerate(examination.usable):
        used = [
            shot for shot in check.shots if shot.used and shot.shot.name_in(examination.folder) not in refused
        ]
        if not used:
            continue
        if len(used) > 1:
            scenes.append(_several(check, used, normalisation))
        elif check.scene.reference is not None and normalisation.laws:
            scenes.append(_drawn(check, used[0], normalisation, seeded_generator(seed, number, 2)))
        elif _shares_noise(check):
            reason = "neighbouring pixels share noise, so its only noisy shot cannot be split in two"
            left_out.append(LeftOut(used[0].shot.path, reason))
        else:
            scenes.append(_single(check, used[0], normalisation))
    return scenes, left_out


def _several(check: SceneCheck, used: Sequence[ShotCheck], normalisation: ScenesNormalisation) -> SceneShots:
    samples = [each.shot.read() for each in used]
    clipped = _clipped(samples, check.clipping)
    shots = [
        apply(each, shot.brightness) if shot.brightness else each
        for each, shot in zip(samples, used, strict=True)
    ]
    channels = samples[0].shape[2]
    own = _own(normalisation, [law for law in check.laws if law.confident], channels)
    return SceneShots(
        check.scene.name,
        "shots",
        tuple(shots),
        tuple(_usable(shot, clipped) for shot in used),
        tuple((shot.shift.rows, shot.shift.columns) if shot.shift else (0.0, 0.0) for shot in used),
        own.of(used[0].shot.open().samples[..., :channels]),
        own.laws_for(channels),
        check.lag.first or 1 if check.lag else 1,
    )


def _single(check: SceneCheck, shot: ShotCheck, normalisation: ScenesNormalisation) -> SceneShots:
    samples = shot.shot.read()
    channels = samples.shape[2]
    own = _own(normalisation, [law for law in check.laws if law.confident], channels)
    return SceneShots(
        check.scene.name,
        "single",
        (samples,),
        (_usable(shot, _clipped([samples], check.clipping)),),
        ((0, 0),),
        own.of(shot.shot.open().samples[..., :channels]),
        own.laws_for(channels),
    )


def _own(normalisation: ScenesNormalisation, laws: Sequence[LawEstimate], channels: int) -> ScenesNormalisation:
    """The normalisation of a scene: that of all scenes, unless its own law certainly has another gain."""
    shared = normalisation.laws_for(channels)
    if not shared or len(laws) != channels:
        return normalisation
    ratios = [own.law.gain / law.gain if law.gain > 0 else 1.0 for own, law in zip(laws, shared, strict=True)]
    if all(1 / MAX_GAIN_RATIO <= ratio <= MAX_GAIN_RATIO for ratio in ratios):
        return normalisation
    return ScenesNormalisation(tuple(each.law for each in laws))


def _drawn(
    check: SceneCheck, shot: ShotCheck, normalisation: ScenesNormalisation, rng: torch.Generator
) -> SceneShots:
    """The shot, and others drawn by the law from the mean of many, which lies on the shot and is as bright.

    The mean itself is no target: it is nearly a clean image, which other scenes do not have.
    """
    single = _single(check, shot, normalisation)
    assert check.scene.reference is not None
    mean = check.scene.reference.read()
    for channel, fit in enumerate(shot.brightness):
        mean[..., channel] = fit.gain * mean[..., channel] + fit.offset
    if shot.shift is not None:
        mean = move(mean, shot.shift.rows, shot.shift.columns)
    # Without texture in the way, the law is precise.
    laws = laws_of_channels(estimate_law_against_mean(single.shots[0], mean), mean.unsqueeze(0))
    if laws:
        own = ScenesNormalisation(tuple(each.law for each in laws))
        samples = shot.shot.open().samples[..., : single.channels]
        single = replace(single, normalisation=own.of(samples), laws=own.laws)
    drawn = [draw_shot(mean, single.laws, rng) for _ in range(DRAWN)]
    usable = single.usable[0] & ~check.scene.reference.missing()
    count = 1 + DRAWN
    shots = (single.shots[0], *drawn)
    return replace(single, use="drawn", shots=shots, usable=(usable,) * count, shifts=((0, 0),) * count)


def to_white(scenes: Sequence[SceneShots]) -> list[SceneShots]:
    """Photographs far below white, such as counts up to 684 in 16 bits, all scaled by the factor that they allow.

    Training on small values is slow. A network without biases does the same to a scaled image, so serving may
    leave photographs as they are.
    """
    dark = [scene for scene in scenes if _is_scaled_only(scene.normalisation)]
    highest = max((range_of(scene.shots[0])[1] for scene in dark), default=0.0)
    if highest <= 0:
        return list(scenes)
    return [
        replace(scene, normalisation=replace(scene.normalisation, span=min(highest, scene.normalisation.span)))
        if _is_scaled_only(scene.normalisation)
        else scene
        for scene in scenes
    ]


def _is_scaled_only(normalisation: Normalisation) -> bool:
    return not normalisation.transforms and not bool(normalisation.low.any())


def draw_shot(mean: Tensor, laws: Sequence[NoiseLaw], rng: torch.Generator) -> Tensor:
    """A noisy shot (H, W, C) of a clean image, by the law of each channel. Not rounded or clipped."""
    planes = []
    for plane, law in zip(mean.unbind(2), laws, strict=True):
        photons = torch.poisson(((plane - law.pedestal) / law.gain).clamp(min=0), generator=rng)
        read_noise = math.sqrt(law.read_variance) * torch.randn(plane.shape, generator=rng)
        planes.append(law.pedestal + law.gain * photons + read_noise)
    return torch.stack(planes, 2)


def _shares_noise(check: SceneCheck) -> bool:
    """Whether neighbouring pixels do, as far as a second shot or a mean has shown."""
    found = check.correlation
    if found is not None:
        return abs(found.value) >= MIN_CORRELATION and abs(found.value) >= 3 * found.error
    return bool(check.estimate and check.estimate.correlated)


def has_rows(checks: Sequence[SceneCheck]) -> bool:
    """Whether noise differs along rows and along columns, in any scene. Then patches may not be transposed."""
    of_pairs = any(
        check.correlation and _shares_noise(check) and 0 in check.correlation.neighbour for check in checks
    )
    return of_pairs or any(check.estimate and check.estimate.banding.confident for check in checks)


def _usable(shot: ShotCheck, clipped: Tensor) -> Tensor:
    """(H, W) bool: where a shot is neither clipped nor moved, and has its samples."""
    usable = ~(clipped | shot.shot.missing())
    return usable if shot.mask is None else usable & ~shot.mask


def _clipped(samples: Sequence[Tensor], clipping: Clipping | None) -> Tensor:
    """(H, W) bool: where many samples are at a limit. A single noisy sample there says nothing of its pixel."""
    clipped = torch.zeros(samples[0].shape[:2], dtype=torch.bool)
    if clipping is None:
        return clipped
    for limit, share in ((clipping.low, clipping.share_low), (clipping.high, clipping.share_high)):
        if share >= MIN_SHARE:
            at_limit = torch.stack([(each == limit).any(2) for each in samples]).float().mean(0)
            clipped |= box_mean(at_limit, SINGLE_RADIUS) > MAX_AT_LIMIT
    return clipped
