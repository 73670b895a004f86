"""Report: what it shows, gathered from an adaptation or an examination and from denoised shots."""

import json
from dataclasses import dataclass
from typing import Any

from engine.adaptation.doctor.correlation import LagCorrelation
from engine.adaptation.examine import Examination
from engine.adaptation.report.crops import Crop, crops_of
from engine.adaptation.report.residual import ResidualCorrelation, residual_correlation
from engine.adaptation.report.values import (
    NOTES,
    adaptation_values,
    crop_values,
    examination_values,
    law_values,
    residual_values,
)
from engine.adaptation.result import Adaptation
from engine.inference.noise_estimation.noise_law import LawEstimate


@dataclass(frozen=True)
class Report:
    """values: all numbers, ready for JSON; None for what is not there. adaptation: None if nothing was trained.

    lag: of the scene whose noise lasts longest; None if none lasts from shot to shot.
    """

    values: dict[str, Any]
    laws: tuple[LawEstimate, ...]
    adaptation: Adaptation | None
    lag: LagCorrelation | None
    crops: tuple[Crop, ...]
    residual: ResidualCorrelation | None


def make_report(result: Adaptation | Examination) -> Report:
    """Of an adaptation, crops of the first few shots are shown, and the residuals of all are measured."""
    adaptation = result if isinstance(result, Adaptation) else None
    examination = result.examination if isinstance(result, Adaptation) else result
    shots = adaptation.shots if adaptation else ()
    laws = adaptation.laws if adaptation else _laws_of(examination)
    crops, residual = crops_of(shots), residual_correlation(shots)
    values: dict[str, Any] = examination_values(examination)
    values["law"] = [law_values(law) for law in laws]
    values |= dict.fromkeys(("curve", "gain", "verdict", "repeat"))
    if adaptation:
        values |= adaptation_values(adaptation)
    values["residual"] = residual_values(residual) if residual else None
    values["crops"] = crop_values(crops)
    values["notes"] = NOTES
    return Report(values, laws, adaptation, _longest_lag(examination), crops, residual)


def _laws_of(examination: Examination) -> tuple[LawEstimate, ...]:
    return (examination.law,) if examination.law else ()


def _longest_lag(examination: Examination) -> LagCorrelation | None:
    lasting = [check.lag for check in examination.scenes if check.lag and check.lag.first != 1]
    return max(lasting, key=lambda lag: lag.values[0], default=None)


def to_json(report: Report) -> str:
    """All numbers, without images. What is unknown or infinite is null."""
    return json.dumps(report.values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
