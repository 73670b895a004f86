"""Verdicts: what the checks of a scene, and of all scenes together, mean in words."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.adaptation.doctor.brightness import Brightness
from engine.adaptation.doctor.clipping import MIN_SHARE as MIN_CLIPPED
from engine.adaptation.doctor.correlation import MIN_CORRELATION
from engine.adaptation.doctor.findings import Finding, least_deviations
from engine.adaptation.doctor.fixed_pattern import find_fixed_pattern
from engine.adaptation.doctor.motion import MAX_SHARE, MIN_SHARE
from engine.adaptation.doctor.scene_check import MIN_SHIFT, SceneCheck, ShotCheck
from engine.data.registration import Shift
from engine.inference.noise_estimation import may_be_clean

# Scenes that training needs: some are held out, and an interval over scenes needs several. Pixels of noisy shots,
# all channels of a pixel counted once. Both are chosen, not measured: six scenes of 0.4 megapixels each have
# taught a network a gain of more than a decibel.
MIN_SCENES = 6
MIN_PIXELS = 1_500_000
# Scenes whose shifts are taken together.
MIN_SHIFTS = 3
# Of the noise of one shot, the variance of a pattern that matters.
MIN_PATTERN_SHARE = 0.001


def judge_scene(check: SceneCheck, folder: Path, least: float) -> tuple[SceneCheck, list[Finding]]:
    """The scene with what is left of it, and what was found. folder: which the names of shots are relative to."""
    findings: list[Finding] = []
    shots = [_judge_shot(each, each.shot.name_in(folder), findings) for each in check.shots]
    check = _judge_means(replace(check, shots=tuple(shots)), folder, findings)
    name = check.scene.name
    clipping = check.clipping
    if clipping and clipping.share >= MIN_CLIPPED:
        ends = [
            f"{share:.1%} at {value:g}"
            for share, value in ((clipping.share_low, clipping.low), (clipping.share_high, clipping.high))
            if share
        ]
        reason = f"cut off: {' and '.join(ends)}; noise there has another mean"
        findings.append(Finding(name, "clipping", "noted", reason, clipping.share))
    _judge_correlation(check, least, findings)
    return check, findings


def _judge_shot(check: ShotCheck, name: str, findings: list[Finding]) -> ShotCheck:
    if check.equal:
        words = "the same as the shot before" if check.equal == 1 else "in part the same as the shot before"
        reason = f"{words}: {check.equal:.0%} of it is equal, and noise never is"
        findings.append(Finding(name, "identical", "left out", reason, check.equal))
        check = replace(check, used=False)
    if not check.used and check.like and check.like.differs:
        reason = f"shows another scene than the other shots: correlation {check.like.correlation:.2f}, not 1"
        findings.append(
            Finding(name, "other scene", "left out", reason, check.like.correlation, check.like.error)
        )
        return check
    if not check.used:
        return check
    shift = check.shift
    if shift is not None:
        reason = f"lies {shift.rows:+.2f} pixels down and {shift.columns:+.2f} to the right"
        findings.append(Finding(name, "shift", "corrected", reason, shift.length, shift.error))
    if check.brightness:
        findings.append(_brightness_finding(name, check.brightness))
    return _judge_motion(check, name, findings)


def _brightness_finding(name: str, fits: Sequence[Brightness]) -> Finding:
    fit = max(fits, key=lambda each: each.deviations)
    if fit.gain == 1:
        reason = f"brighter by {fit.level:+.3g} +- {fit.level_error:.1g}"
        return Finding(name, "brightness", "corrected", reason, fit.level, fit.level_error)
    reason = f"gain {fit.gain:.4f} +- {fit.gain_error:.4f}, offset {fit.offset:+.4g}"
    return Finding(name, "brightness", "corrected", reason, fit.gain, fit.gain_error)


def _judge_motion(check: ShotCheck, name: str, findings: list[Finding]) -> ShotCheck:
    moved = check.moved
    if moved < MIN_SHARE:
        return check
    if moved > MAX_SHARE:
        reason = f"{moved:.0%} of it differs from the other shots by more than noise"
        findings.append(Finding(name, "moving", "left out", reason, moved))
        return replace(check, used=False)
    reason = f"{moved:.2%} of the pixels differ by more than noise; they are masked"
    findings.append(Finding(name, "moving", "masked", reason, moved))
    return check


def _judge_means(check: SceneCheck, folder: Path, findings: list[Finding]) -> SceneCheck:
    """A scene of two shots, one of which is the mean of many."""
    scene = check.scene
    levels = check.shots[-1].levels
    if len(scene.shots) != 2 or scene.reference is not None or levels is None:
        return check
    if not (levels.first_is_mean or levels.second_is_mean):
        return check
    place = 0 if levels.first_is_mean else 1
    mean, noisy = scene.shots[place], check.shots[1 - place]
    ratio = levels.ratio if place else 1 / max(levels.ratio, 1e-9)
    reason = f"has {ratio:.1%} of the variance of {noisy.shot.name}: the mean of many shots is no noisy view"
    findings.append(Finding(mean.name_in(folder), "mean of many", "left out", reason, ratio))
    as_mean = replace(scene, kind="mean", shots=(noisy.shot,), reference=mean)
    return replace(check, scene=as_mean, shots=(noisy,))


def _judge_correlation(check: SceneCheck, least: float, findings: list[Finding]) -> None:
    name, found, lag = check.scene.name, check.correlation, check.lag
    if found and abs(found.value) >= MIN_CORRELATION and abs(found.value) >= least * found.error:
        down, across = found.neighbour
        reason = f"pixels {down} down and {across} across share noise; single shots of it cannot be learnt from"
        findings.append(Finding(name, "correlated", "noted", reason, found.value, found.error))
    if lag and lag.first != 1 and lag.values[0] >= least * lag.error:
        if lag.first is None:
            reason = f"noise lasts through all {len(lag.values) + 1} shots that were compared; record them slower"
            findings.append(Finding(name, "lag", "left out", reason, lag.values[0], lag.error))
        else:
            reason = f"noise lasts from shot to shot; shots {lag.first} apart and more are paired"
            findings.append(Finding(name, "lag", "corrected", reason, lag.values[0], lag.error))
    estimate = check.estimate
    if estimate and estimate.correlated and estimate.luma and not may_be_clean(estimate):
        reason = "neighbouring pixels share noise, so a single shot cannot be split in two; record two shots"
        findings.append(Finding(name, "correlated", "left out", reason, estimate.luma.correlation[0]))


# All scenes together


def judge_all(checks: Sequence[SceneCheck], folder: Path, least: float) -> tuple[list[SceneCheck], list[Finding]]:
    """The scenes, and what only all of them together show."""
    name = folder.name or str(folder)
    findings = [*_repeated(checks, folder), *_fixed_pattern(checks, name, least)]
    shift = _common_shift(checks)
    if shift is None:
        return list(checks), findings
    place = f"{shift.rows:+.2f} pixels down and {shift.columns:+.2f} to the right"
    reason = f"in all scenes, second shots lie {place} of the first"
    findings.append(Finding(name, "shift", "corrected", reason, shift.length, shift.error))
    return [_with_shift(check, shift) for check in checks], findings


def _with_shift(check: SceneCheck, shift: Shift) -> SceneCheck:
    if len(check.shots) != 2 or check.shots[1].shift is not None:
        return check
    return replace(check, shots=(check.shots[0], replace(check.shots[1], shift=shift)))


def _repeated(checks: Sequence[SceneCheck], folder: Path) -> list[Finding]:
    """Shots that are equal to one of another scene."""
    first_seen: dict[bytes, str] = {}
    findings = []
    for check in checks:
        for shot, code in zip(check.scene.shots, check.digests, strict=False):
            if code in first_seen and first_seen[code] != check.scene.name:
                reason = f"the same as a shot of scene {first_seen[code]}"
                findings.append(Finding(shot.name_in(folder), "identical", "left out", reason, 1.0))
            first_seen.setdefault(code, check.scene.name)
    return findings


def _fixed_pattern(checks: Sequence[SceneCheck], name: str, least: float) -> list[Finding]:
    sizes = [check.mean.shape for check in checks]
    same = [check for check in checks if check.mean.shape == max(set(sizes), key=sizes.count)]
    found = find_fixed_pattern([check.mean for check in same])
    noises = sorted(check.noise for check in same if check.noise)
    if not found or not noises or found.deviations < least:
        return []
    noise = noises[len(noises) // 2]
    share = (found.deviation / noise) ** 2
    if share < MIN_PATTERN_SHARE:
        return []
    reason = (
        f"the detector adds the same pattern to all scenes: {found.deviation:.3g}, where noise is {noise:.3g}; "
        "pairs do not remove it"
    )
    error = found.deviation / found.deviations
    return [Finding(name, "fixed pattern", "noted", reason, found.deviation, error)]


def _common_shift(checks: Sequence[SceneCheck]) -> Shift | None:
    """Of all second shots from the first ones, if it is too small to be seen in most scenes alone."""
    pairs = [check.shots[1] for check in checks if len(check.shots) == 2]
    shifts = [shot.measured for shot in pairs if shot.used and shot.measured]
    if len(shifts) < MIN_SHIFTS or sum(shot.shift is not None for shot in pairs) > len(pairs) / 2:
        return None
    rows, row_error = _weighted([(each.rows, each.row_error) for each in shifts])
    columns, column_error = _weighted([(each.columns, each.column_error) for each in shifts])
    shift = Shift(rows, columns, row_error, column_error)
    return shift if shift.deviations >= least_deviations(2) and shift.length >= MIN_SHIFT else None


def _weighted(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean of values with standard errors, and its standard error, from how the values scatter if that is
    more."""
    weights = [1 / error**2 for _, error in values]
    total = sum(weights)
    mean = sum(weight * value for weight, (value, _) in zip(weights, values, strict=True)) / total
    scatter = sum(weight * (value - mean) ** 2 for weight, (value, _) in zip(weights, values, strict=True))
    return mean, math.sqrt(max(1.0, scatter / max(len(values) - 1, 1)) / total)


def judge_amount(checks: Sequence[SceneCheck], folder: Path, left_out: frozenset[str]) -> list[Finding]:
    """Whether there is too little, and how much more is needed."""
    used = [check for check in checks if check.scene.name not in left_out and any(s.used for s in check.shots)]
    pixels = [check.mean.numel() * sum(1 - shot.masked for shot in check.shots if shot.used) for check in used]
    total = sum(pixels)
    if len(used) >= MIN_SCENES and total >= MIN_PIXELS:
        return []
    usual = total / len(used) if used else 0
    by_pixels = -int(-(MIN_PIXELS - total) // usual) if usual and total < MIN_PIXELS else 0
    more = max(MIN_SCENES - len(used), by_pixels)
    reason = (
        f"{len(used)} scenes with {total / 1e6:.2g} megapixels of noisy shots. Record about {more} more scenes "
        f"like these: {MIN_SCENES} scenes and {MIN_PIXELS / 1e6:g} megapixels are needed"
    )
    return [Finding(folder.name or str(folder), "too little", "missing", reason, float(more))]
