"""Values of the report: all of its numbers, for JSON and for the page alike."""

import math
from collections.abc import Sequence
from typing import Any

from engine.adaptation.doctor.scene_check import SceneCheck
from engine.adaptation.examine import Examination
from engine.adaptation.gate import MIN_SHARE, PART_NAMES
from engine.adaptation.quality import CONFIDENCE, PARTS, Estimate, SceneError, gain
from engine.adaptation.report.crops import Crop
from engine.adaptation.report.residual import REACH, ResidualCorrelation
from engine.adaptation.result import Adaptation
from engine.adaptation.scenes import Shot
from engine.adaptation.table import contents
from engine.inference.noise_estimation.noise_law import Interval, LawEstimate

# What cannot be known without clean images, where the numbers stand.
NOTES = {
    "gain": "No clean image exists, so each gain is an estimate: shots that the network did not see judge its "
    "output. Noise that all shots of a scene share, such as a fixed pattern, counts as part of the scene and "
    "cannot be seen here. The intervals hold for scenes like the held-out ones, and say nothing about others.",
    "law": "The law is measured from shots alone. It does not show noise that all shots share. Where the "
    "points allow several pedestals and read noises, the intervals are wide.",
    "correlation": "Only noise that differs between shots is seen. Noise that lasts longer than a series of "
    "shots looks like part of the scene.",
    "crops": "Nobody has seen these scenes without noise. Detail that only the denoised image shows may be true "
    "or invented: other shots of the scene can tell, this report cannot.",
    "residual": "A white residual does not prove that all detail was kept: detail far weaker than the noise "
    "does not show. Structure outside the band is certain: something other than noise was removed, or more noise "
    "was left than the best denoiser would leave.",
}


def finite(value: float) -> float | None:
    """JSON has no infinity and no NaN: None."""
    return value if math.isfinite(value) else None


def examination_values(examination: Examination) -> dict[str, Any]:
    """What came in, and what the doctor found."""
    folder = examination.folder
    usable = {id(check) for check in examination.usable}
    return {
        "folder": str(folder),
        "contents": contents(examination),
        "kinds": dict(examination.kinds),
        "usable_scenes": len(usable),
        "scenes": [_scene(check, examination, id(check) in usable) for check in examination.scenes],
        "left_out": [
            {"file": each.path.relative_to(folder).as_posix(), "reason": each.reason}
            for each in examination.left_out
        ],
        "findings": [
            {
                "file": each.file,
                "check": each.check,
                "verdict": each.verdict,
                "reason": each.reason,
                "number": finite(each.number),
                "error": finite(each.error),
            }
            for each in examination.findings
        ],
        "correlation": [_correlation(check) for check in examination.scenes if check.correlation or check.lag],
    }


def _scene(check: SceneCheck, examination: Examination, usable: bool) -> dict[str, Any]:
    scene = check.scene
    digests = [each.hex() for each in check.digests]
    digests += [""] * (len(scene.shots) - len(digests))
    return {
        "name": scene.name,
        "kind": scene.kind,
        "width": scene.size[0],
        "height": scene.size[1],
        "channels": scene.channels,
        "usable": usable,
        "noise": None if check.noise is None else finite(check.noise),
        "reference": _name_in(scene.reference, examination),
        "shots": [
            {"file": _name_in(shot, examination), "digest": digest}
            for shot, digest in zip(scene.shots, digests, strict=False)
        ],
    }


def _name_in(shot: Shot | None, examination: Examination) -> str | None:
    return shot.name_in(examination.folder) if shot else None


def _correlation(check: SceneCheck) -> dict[str, Any]:
    space, time = check.correlation, check.lag
    return {
        "scene": check.scene.name,
        "space": space
        and {
            "value": finite(space.value),
            "error": finite(space.error),
            "down": space.neighbour[0],
            "across": space.neighbour[1],
        },
        "time": time
        and {
            "values": [finite(value) for value in time.values],
            "error": finite(time.error),
            "independent_from": time.first,
        },
    }


def law_values(law: LawEstimate) -> dict[str, Any]:
    """Of one channel. The read noise is a standard deviation."""
    return {
        "gain": _with_interval(law.law.gain, law.gain),
        "pedestal": _with_interval(law.law.pedestal, law.pedestal),
        "read_noise": _with_interval(math.sqrt(max(law.law.read_variance, 0.0)), law.read_noise),
        "read_variance": finite(law.law.read_variance),
        "growth": finite(law.growth),
        "confident": law.confident,
        "clipped_dark": law.clipped[0],
        "clipped_bright": law.clipped[1],
        "points": [
            {
                "brightness": finite(point.brightness),
                "sigma": finite(point.sigma),
                "standard_error": finite(point.standard_error),
            }
            for point in law.points
        ],
    }


def _with_interval(value: float, interval: Interval) -> dict[str, float | None]:
    return {"value": finite(value), "low": finite(interval.low), "high": finite(interval.high)}


def estimate_values(estimate: Estimate) -> dict[str, float | None]:
    """In dB. An end of the interval that is not known is None."""
    return {"value": finite(estimate.value), "low": finite(estimate.low), "high": finite(estimate.high)}


def adaptation_values(adaptation: Adaptation) -> dict[str, Any]:
    """How training went, what it gained, the verdict, and how to repeat it."""
    verdict = adaptation.verdict
    return {
        "curve": [
            {"minutes": point.minutes, "step": point.step, "gain": estimate_values(point.gain)}
            for point in adaptation.curve
        ],
        "gain": {
            "confidence": CONFIDENCE,
            "judged_by": adaptation.judged_by,
            "held_out": list(adaptation.held_out),
            "before": estimate_values(verdict.before),
            "after": estimate_values(verdict.after),
            "improvement": estimate_values(verdict.improvement),
            "thirds": _thirds(adaptation),
            "scenes": [
                _scene_error(name, error)
                for name, error in zip(adaptation.held_out, adaptation.errors, strict=False)
            ],
        },
        "verdict": {"passed": verdict.passed, "reasons": list(verdict.reasons)},
        "repeat": {
            "command": adaptation.command,
            "seed": adaptation.seed,
            "minutes": adaptation.minutes,
            "steps": adaptation.steps,
            "weights": str(adaptation.weights),
            "digest": adaptation.digest,
            "start": adaptation.start,
            "start_digest": adaptation.start_digest,
            "in_service": adaptation.in_service,
            "in_service_digest": adaptation.in_service_digest,
            "versions": dict(adaptation.versions),
        },
    }


def _thirds(adaptation: Adaptation) -> list[dict[str, Any]]:
    """Of the brightness range. Those with too few pixels have no numbers."""
    errors = adaptation.errors
    thirds = []
    for part in range(PARTS):
        share = sum(error.counts[part] for error in errors) / max(len(errors), 1)
        judged = share >= MIN_SHARE
        improvement = adaptation.verdict.thirds[part] if part < len(adaptation.verdict.thirds) else None
        thirds.append(
            {
                "name": PART_NAMES[part],
                "share": share,
                "before": estimate_values(gain(errors, 0, part)) if judged else None,
                "after": estimate_values(gain(errors, 1, part)) if judged else None,
                "improvement": estimate_values(improvement) if improvement else None,
            }
        )
    return thirds


def _scene_error(name: str, error: SceneError) -> dict[str, Any]:
    """A scene alone has no interval."""
    before, after = (gain([error], denoiser) for denoiser in (0, 1))
    return {
        "name": name,
        "before": finite(before.value),
        "after": finite(after.value),
        "mean_change_before": finite(error.bias[0]),
        "mean_change_after": finite(error.bias[1]),
    }


def residual_values(found: ResidualCorrelation) -> dict[str, Any]:
    """The autocorrelation of the residual. values: rows of distances down, from -reach on."""
    down, across = found.largest
    return {
        "reach": REACH,
        "pixels": found.pixels,
        "error": found.error,
        "share_outside": found.share_outside,
        "has_structure": found.has_structure,
        "largest": {
            "value": finite(found.at(down, across)),
            "expected": finite(found.expected_at(down, across)),
            "down": down,
            "across": across,
        },
        "deviation": found.deviation,
        "values": [[finite(value) for value in row] for row in found.values],
        "expected": found.expected and [[finite(value) for value in row] for row in found.expected],
    }


def crop_values(crops: Sequence[Crop]) -> list[dict[str, Any]]:
    """Where the crops are, and how they are shown; without their pixels."""
    return [
        {
            "shot": crop.shot,
            "reason": crop.reason,
            "top": crop.top,
            "left": crop.left,
            "black": finite(crop.black),
            "white": finite(crop.white),
            "residual_reach": finite(crop.residual_reach),
        }
        for crop in crops
    ]
