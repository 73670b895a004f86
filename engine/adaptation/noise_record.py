"""Noise record: the noise of a folder's shots as serving would measure it, for the metadata of the weights."""

from collections.abc import Sequence
from statistics import median

import numpy as np

from engine.adaptation.doctor.scene_check import SceneCheck
from engine.adaptation.shots import SceneShots
from engine.inference.adapted_noise import (
    AdaptedNoise,
    Laws,
    channels_of,
    correlation_of,
    samples_type,
    share_of,
)
from engine.inference.noise_estimation import NoiseEstimate, estimate_noise

# Scenes of which a shot is measured, spread evenly.
MAX_MEASURED = 12
# Laws of single scenes, spread evenly by their gain.
MAX_LAWS = 8
# Points of the noise level function.
MAX_LEVELS = 8


def record_noise(checks: Sequence[SceneCheck], scenes: Sequence[SceneShots], laws: Laws) -> AdaptedNoise | None:
    """The noise of the shots; None if no shot lets it be measured.

    checks: of the scenes that can be learnt from. scenes: the same ones as training sees them. laws: of all
    scenes together, one for each channel.
    """
    found = [(estimate, samples) for estimate, samples in map(_measured, _spread(checks)) if estimate.luma]
    if not found:
        return None
    kinds = [(channels_of(estimate), samples) for estimate, samples in found]
    channels, samples = max(set(kinds), key=lambda kind: (kinds.count(kind), kind))
    usual = [each for (each, _), kind in zip(found, kinds, strict=True) if kind == (channels, samples)]
    estimates = [each for each in usual if each.sigma and any(each.sigma)]
    if not estimates:
        return None
    shared = _for_channels(laws, channels)
    levels = () if shared else _levels(estimates)
    if not shared and not levels:
        return None
    correlations = list(zip(*map(correlation_of, estimates), strict=True))
    first, second, third = map(median, correlations)
    shares = list(map(share_of, estimates))
    ends = list(zip(*(each.range for each in estimates), strict=True))
    return AdaptedNoise(
        channels=channels,
        samples=samples,
        laws=(shared, *_own_laws(scenes, shared, channels)) if shared else (),
        levels=levels,
        correlation=(first, second, third),
        share=(min(shares), max(shares)),
        brightness=(min(ends[0]), max(ends[1])),
        jpeg_blocks=sum(each.jpeg_blocks for each in estimates) / len(estimates),
    )


def _spread(checks: Sequence[SceneCheck]) -> list[SceneCheck]:
    count = min(len(checks), MAX_MEASURED)
    return [checks[index * len(checks) // count] for index in range(count)]


def _measured(check: SceneCheck) -> tuple[NoiseEstimate, str]:
    """The noise of the scene's first usable shot, and the type of its samples."""
    shot = next(each.shot for each in check.shots if each.used)
    samples = shot.open().samples
    return estimate_noise(samples), samples_type(samples)


def _for_channels(laws: Laws, channels: int) -> Laws:
    """As `ScenesNormalisation.laws_for` gives them."""
    if not laws or len(laws) == channels:
        return laws
    return (laws[len(laws) // 2],) * channels


def _own_laws(scenes: Sequence[SceneShots], shared: Laws, channels: int) -> list[Laws]:
    """The laws of scenes that are not the shared one, at most MAX_LAWS, from the least gain to the largest."""
    own = {scene.laws for scene in scenes if scene.laws and len(scene.laws) == channels and scene.laws != shared}
    ordered = sorted(own, key=lambda laws: laws[len(laws) // 2].gain)
    count = min(len(ordered), MAX_LAWS)
    return [ordered[index * (len(ordered) - 1) // max(count - 1, 1)] for index in range(count)]


def _levels(estimates: Sequence[NoiseEstimate]) -> tuple[tuple[float, float], ...]:
    """Brightness and standard deviation: medians of the shots' levels in bins of brightness of equal number."""
    points = sorted(
        (level.brightness / 255 * each.white, level.sigma / 255 * each.white)
        for each in estimates
        for level in each.noise_level_function
        if level.sigma > 0
    )
    count = min(MAX_LEVELS, len(points) // 2) or len(points[:1])
    bins = np.array_split(np.array(points).reshape(-1, 2), count) if points else []
    return tuple((float(np.median(each[:, 0])), float(np.median(each[:, 1]))) for each in bins)
