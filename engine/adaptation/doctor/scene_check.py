"""Check of one scene: each shot against the others, and what the scene as a whole says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.adaptation.doctor.brightness import Brightness, apply, fit_brightness
from engine.adaptation.doctor.clipping import Clipping, find_clipping
from engine.adaptation.doctor.correlation import (
    LagCorrelation,
    SpatialCorrelation,
    lag_correlation,
    spatial_correlation,
)
from engine.adaptation.doctor.duplicates import digest, equal_share
from engine.adaptation.doctor.motion import moving_mask
from engine.adaptation.doctor.noise_levels import NoiseLevels, noise_levels
from engine.adaptation.doctor.planes import grey
from engine.adaptation.likeness import Likeness, likeness_at
from engine.adaptation.scenes import Scene, Shot
from engine.data.registration import Shift, measure_shift, move
from engine.inference.noise_estimation import NoiseEstimate, estimate_noise
from engine.inference.noise_estimation.law_of_stack import estimate_law_of_stack
from engine.inference.noise_estimation.noise_law import LawEstimate

# Shots that make the mean that each shot is compared with.
TEMPLATE = 8
# Shots from which on the least and the largest sample are left out of the mean.
MIN_TRIMMED = 5
# Successive shots that are looked at for noise that lasts, and the side of their middle, in pixels.
LAG_SHOTS = 24
LAG_SIDE = 256
# Shifts that are smaller do no harm, in pixels; and gains, and levels in standard deviations of the noise.
MIN_SHIFT = 0.02
MIN_GAIN = 0.002
MIN_LEVEL = 0.02
# Variance of the noise of one of two shots over that of the other, at least.
MIN_NOISE_RATIO = 1e-3
# Pixels along the borders that are not looked at, beside those that a shift brings in.
BORDER = 2


@dataclass(frozen=True)
class ShotCheck:
    """What a shot needs so that it can be learnt from.

    used: False if it is left out. shift: of this shot from the scene's reference, or else from the first shot
    that shows the scene; None if it has none that matters; the loss moves the network's output by it, never a
    noisy shot. brightness: of each channel, against the scene's mean; empty if it does not differ. mask: bool (H,
    W), what moved, and what a shift brought in; None for nothing. moved: share of the pixels that moved.
    measured, like, equal, levels: what was measured. measured: the shift, whether it matters or not. equal: share
    of the shot before it that it repeats.
    """

    shot: Shot
    used: bool = True
    shift: Shift | None = None
    brightness: tuple[Brightness, ...] = ()
    mask: Tensor | None = None
    moved: float = 0.0
    measured: Shift | None = None
    like: Likeness | None = None
    equal: float = 0.0
    levels: NoiseLevels | None = None

    @property
    def masked(self) -> float:
        """Share of the pixels that are masked."""
        return 0.0 if self.mask is None else float(self.mask.double().mean())


@dataclass(frozen=True)
class SceneCheck:
    """A scene with what was measured of it.

    mean: float64 (H, W), of raw shots, in the detector's pixels. noise: standard deviation of one shot. laws: of
    each channel. digests: of each shot's samples, in order. estimate: of a single shot alone.
    """

    scene: Scene
    shots: tuple[ShotCheck, ...]
    mean: Tensor
    noise: float | None = None
    clipping: Clipping | None = None
    correlation: SpatialCorrelation | None = None
    lag: LagCorrelation | None = None
    laws: tuple[LawEstimate, ...] = ()
    digests: tuple[bytes, ...] = ()
    estimate: NoiseEstimate | None = None


def check_scene(scene: Scene, least: float) -> SceneCheck:
    """least: standard errors from which on a shift or a change of brightness is no chance.

    Raises ValueError naming a file that cannot be read, or OSError.
    """
    if len(scene.shots) == 1 and scene.reference is None:
        return _check_single(scene)
    raw = _template_shots(scene)
    template = _Template(scene, raw, least)
    checks, digests, differences, changed = [], [], [], []
    previous: Tensor | None = None
    for number, shot in enumerate(scene.shots):
        samples = shot.read()
        digests.append(digest(samples))
        reference = template.without(number)
        if reference is None:
            # The first of two shots: the second one is compared with it.
            checks.append(ShotCheck(shot))
            corrected = samples
        else:
            check, corrected, noise = _check_shot(shot, samples, reference, least)
            checks.append(replace(check, equal=equal_share(previous, samples) if previous is not None else 0.0))
            if noise is not None:
                differences.append((*noise, checks[-1].mask))
        changed.append(corrected)
        previous = samples
        if len(changed) > LAG_SHOTS:
            changed.pop(0)
    measured = _measured(scene, checks, raw, differences)
    return replace(measured, lag=_lag(checks, changed, raw[-1]), laws=_laws(raw), digests=tuple(digests))


def _template_shots(scene: Scene) -> list[Tensor]:
    """Some shots, spread evenly, the first one among them."""
    return [scene.shots[number].read() for number in _chosen(len(scene.shots))]


def _chosen(count: int) -> list[int]:
    number = min(count, TEMPLATE)
    return [index * (count - 1) // max(number - 1, 1) for index in range(number)]


class _Template:
    """The mean of some shots, moved to one of them and as bright as it.

    Of a scene of two shots, the first; of one with a reference, that. Shots of other scenes are left out.
    """

    def __init__(self, scene: Scene, shots: Sequence[Tensor], least: float) -> None:
        """shots: those of `_template_shots`."""
        self.reference = scene.reference.read() if scene.reference else None
        self.shots: dict[int, Tensor] = {}
        if self.reference is not None:
            return
        places = _chosen(len(scene.shots))
        self.shots = {0: shots[0]}
        if len(shots) > 2:
            anchor, same = _same_scene(shots)
            self.shots = {places[anchor]: shots[anchor]}
            for index, shift in same.items():
                self.shots[places[index]] = _corrected(shots[index], shots[anchor], shift, least).samples

    def without(self, number: int) -> Tensor | None:
        """What the shot of this number is compared with. None for the first of two."""
        if self.reference is not None:
            return self.reference
        others = [shot for place, shot in self.shots.items() if place != number]
        if not others:
            return None
        stack = torch.stack(others)
        # What moves in one of many shots does not move their mean.
        return stack.mean(0) if len(others) < MIN_TRIMMED else _trimmed_mean(stack)


def _same_scene(shots: Sequence[Tensor]) -> tuple[int, dict[int, Shift | None]]:
    """A shot of the scene that most of them show, and the others of that scene with their shifts from it."""
    found: list[dict[int, Shift | None]] = []
    for anchor in range(2):
        shifts = {i: measure_shift(shot, shots[anchor]) for i, shot in enumerate(shots) if i != anchor}
        same = {i: each for i, each in shifts.items() if not likeness_at(shots[i], shots[anchor], each).differs}
        if 2 * (len(same) + 1) > len(shots):
            return anchor, same
        found.append(same)
    return 0, found[0]


def _trimmed_mean(stack: Tensor) -> Tensor:
    """(N, H, W, C): the mean without the least and the largest."""
    low, high = stack.aminmax(dim=0)
    mean: Tensor = (stack.sum(0) - low - high) / (len(stack) - 2)
    return mean


@dataclass(frozen=True)
class _Corrected:
    """A shot in the place and the brightness of another one, and what was corrected."""

    samples: Tensor
    shift: Shift | None
    brightness: tuple[Brightness, ...]

    @property
    def border(self) -> int:
        """Pixels along the sides that are not looked at."""
        shift = self.shift
        return BORDER if shift is None else BORDER + 1 + int(max(abs(shift.rows), abs(shift.columns)))


def _corrected(samples: Tensor, reference: Tensor, measured: Shift | None, least: float) -> _Corrected:
    matters = measured is not None and measured.deviations >= least and measured.length >= MIN_SHIFT
    shift = measured if matters else None
    placed = samples if shift is None else move(samples, -shift.rows, -shift.columns)
    border = _Corrected(placed, shift, ()).border
    inside = (slice(border, -border), slice(border, -border))
    fits = tuple(
        fit_brightness(placed[..., c][inside], reference[..., c][inside]) for c in range(samples.shape[2])
    )
    noise = float((grey(placed) - grey(reference))[inside].std())
    if not any(_matters(fit, least, noise) for fit in fits):
        return _Corrected(placed, shift, ())
    return _Corrected(apply(placed, fits), shift, fits)


def _matters(fit: Brightness, least: float, noise: float) -> bool:
    is_large = abs(fit.gain - 1) >= MIN_GAIN or abs(fit.level) >= MIN_LEVEL * noise
    return fit.deviations >= least and is_large


def _check_shot(
    shot: Shot, samples: Tensor, reference: Tensor, least: float
) -> tuple[ShotCheck, Tensor, tuple[Tensor, Tensor] | None]:
    """The check, the corrected shot, and the difference (H, W) of both and their brightness if they show one
    scene.
    """
    measured = measure_shift(samples, reference)
    like = likeness_at(samples, reference, measured)
    if like.differs:
        return ShotCheck(shot, used=False, like=like), samples, None
    corrected = _corrected(samples, reference, measured, least)
    first, second = grey(corrected.samples), grey(reference)
    levels = noise_levels(second, first)
    difference, brightness = first - second, _brightness(first, second, levels)
    mask = moving_mask(difference, brightness, corrected.border)
    moved = float(mask.double().mean())
    if corrected.shift is not None:
        mask = mask | _along_sides(mask, corrected.border)
    check = ShotCheck(
        shot,
        shift=corrected.shift,
        brightness=corrected.brightness,
        mask=mask if bool(mask.any()) else None,
        moved=moved,
        measured=measured,
        like=like,
        levels=levels,
    )
    return check, corrected.samples, (difference, brightness)


def _brightness(first: Tensor, second: Tensor, levels: NoiseLevels) -> Tensor:
    """The mean of both, with weights for which its noise is independent of that of their difference.

    Otherwise pixels that look bright would differ by chance.
    """
    least = MIN_NOISE_RATIO * max(levels.first, levels.second)
    # `second` is the first one of the two in `levels`.
    of_first, of_second = max(levels.second, least), max(levels.first, least)
    if of_first + of_second <= 0:
        return (first + second) / 2
    return (of_second * first + of_first * second) / (of_first + of_second)


def _along_sides(mask: Tensor, border: int) -> Tensor:
    outside = torch.ones_like(mask)
    outside[border:-border, border:-border] = False
    return outside


def _measured(
    scene: Scene,
    checks: Sequence[ShotCheck],
    raw: Sequence[Tensor],
    differences: Sequence[tuple[Tensor, Tensor, Tensor | None]],
) -> SceneCheck:
    """What the scene as a whole says."""
    found = []
    for difference, brightness, mask in differences[:TEMPLATE]:
        nothing = torch.zeros_like(difference, dtype=torch.bool)
        found.append(spatial_correlation(difference, brightness, nothing if mask is None else mask))
    return SceneCheck(
        scene,
        tuple(checks),
        torch.stack([grey(shot) for shot in raw]).mean(0),
        _noise_of(checks),
        _worst_clipping(raw),
        _mean_correlation([each for each in found if each]),
    )


def _laws(raw: Sequence[Tensor]) -> tuple[LawEstimate, ...]:
    """The noise law of each channel, if it is certain."""
    return tuple(law for law in estimate_law_of_stack(raw) if law and law.confident)


def _noise_of(checks: Sequence[ShotCheck]) -> float | None:
    """Standard deviation of a shot's noise, by what two shots do not share."""
    levels = sorted(check.levels.second for check in checks if check.levels)
    return max(levels[len(levels) // 2], 0.0) ** 0.5 if levels else None


def _worst_clipping(raw: Sequence[Tensor]) -> Clipping:
    channels = [find_clipping([shot[..., c] for shot in raw]) for c in range(raw[0].shape[2])]
    return max(channels, key=lambda each: each.share)


def _mean_correlation(found: Sequence[SpatialCorrelation]) -> SpatialCorrelation | None:
    if not found:
        return None
    worst = max(found, key=lambda each: abs(each.value))
    same = [each for each in found if each.neighbour == worst.neighbour]
    value = sum(each.value for each in same) / len(same)
    return SpatialCorrelation(value, worst.neighbour, worst.error / len(same) ** 0.5)


def _lag(checks: Sequence[ShotCheck], corrected: Sequence[Tensor], raw: Tensor) -> LagCorrelation | None:
    """Of the last shots, in their middle. raw: one shot as it is."""
    recent = list(zip(checks[-len(corrected) :], corrected, strict=True))
    if any(not check.used or check.equal for check, _ in recent):
        return None
    planes = [_middle(grey(samples)) for _, samples in recent]
    mask = torch.zeros_like(planes[0], dtype=torch.bool)
    for check, _ in recent:
        if check.mask is not None:
            mask |= _middle(check.mask)
    middle = _middle(raw.double().mean(2)).unsqueeze(2).float()
    alone = estimate_noise(middle)
    # Where neighbours share noise, a single shot says little about it.
    variance = 0.0 if alone.correlated or not alone.sigma else alone.sigma_in_units**2
    return lag_correlation(planes, mask, variance)


def _middle(plane: Tensor) -> Tensor:
    for axis in (0, 1):
        size = plane.shape[axis]
        plane = plane.narrow(axis, max(0, (size - LAG_SIDE) // 2), min(size, LAG_SIDE))
    return plane


def _check_single(scene: Scene) -> SceneCheck:
    [shot] = scene.shots
    samples = shot.read()
    estimate = estimate_noise(shot.open().samples)
    return SceneCheck(
        scene,
        (ShotCheck(shot),),
        grey(samples),
        estimate.sigma_in_units if estimate.sigma else None,
        _worst_clipping([samples]),
        laws=estimate.laws,
        digests=(digest(samples),),
        estimate=estimate,
    )
