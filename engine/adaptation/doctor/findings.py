"""Findings of the pair doctor, and how sure a finding has to be."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

# What is done about a finding. "noted": nothing, the shots can be learnt from. "corrected": it is taken into
# account in training. "masked": some pixels are not learnt from. "left out": the shot or the scene is not used.
# "missing": more shots are needed.
Verdict = Literal["noted", "corrected", "masked", "left out", "missing"]
# The checks, by the words that the table shows.
Check = Literal[
    "shift", "brightness", "moving", "identical", "other scene", "mean of many", "lag", "fixed pattern",
    "clipping", "correlated", "too little",
]  # fmt: skip
# Of clean sets, the share in which one check may find something by chance.
FALSE_ALARMS = 0.001


@dataclass(frozen=True)
class Finding:
    """file: of a shot, or of a scene or the folder. number: as the check measures it, with its unit in `reason`.

    error: standard error of the number; 0 if it has none.
    """

    file: str
    check: Check
    verdict: Verdict
    reason: str
    number: float
    error: float = 0.0


def least_deviations(tests: int) -> float:
    """Standard errors from which on one of so many tests is no chance."""
    return NormalDist().inv_cdf(1 - FALSE_ALARMS / (2 * max(tests, 1)))
