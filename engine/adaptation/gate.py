"""Gate: whether adapted weights may replace those in service, judged on scenes that no training has seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.adaptation.quality import PARTS, Estimate, SceneError, gain, improvement

# A smaller improvement, in dB, is no reason to change weights. It must be above 0 with 95 % confidence.
MIN_IMPROVEMENT = 0.02
# No third of the brightness range may lose more, in dB.
MAX_LOSS = 0.1
# The mean of an image may change by so much of the brightness range.
MAX_BIAS = 0.001
# A third with fewer of the pixels is not judged.
MIN_SHARE = 0.02
# Of scenes that were held out.
MIN_SCENES = 2
PART_NAMES = ("darkest", "middle", "brightest")


@dataclass(frozen=True)
class Verdict:
    """The outcome, in dB. before, after: the gains over the noisy shots. improvement: of after over before.

    thirds: the improvement in each third of the brightness range, None where there are too few pixels.
    reasons: why the weights may not be published, for people; empty if they may.
    """

    before: Estimate
    after: Estimate
    improvement: Estimate
    thirds: tuple[Estimate | None, ...]
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the weights may be published."""
        return not self.reasons


def judge(scenes: Sequence[SceneError], limits: tuple[float, float]) -> Verdict:
    """Compares the second denoiser of each scene (adapted) with the first (in service).

    limits: the brightness range of all scenes. Raises ValueError without scenes.
    """
    change = improvement(scenes)
    shares = [sum(scene.counts[part] for scene in scenes) / len(scenes) for part in range(PARTS)]
    thirds = [improvement(scenes, part=part) if share >= MIN_SHARE else None for part, share in enumerate(shares)]
    reasons = []
    if len(scenes) < MIN_SCENES:
        reasons.append(
            f"Only {len(scenes)} scene was held out, and at least {MIN_SCENES} are needed for an interval. "
            "Add shots of more scenes."
        )
    if change.high < 0:
        reasons.append(f"The adapted weights are worse: by {change}. Train longer, or start from others.")
    elif change.low <= 0 or change.value < MIN_IMPROVEMENT:
        reasons.append(
            f"The adapted weights are not better with 95 % confidence, or by less than {MIN_IMPROVEMENT} dB: "
            f"by {change}. Train longer, or add scenes."
        )
    reasons += [
        f"The {PART_NAMES[part]} third of the brightness range loses {-third.value:.2f} dB, and at most "
        f"{MAX_LOSS} dB are allowed."
        for part, third in enumerate(thirds)
        if third and third.value < -MAX_LOSS
    ]
    worst = max((abs(scene.bias[1]) for scene in scenes), default=0.0)
    if worst > MAX_BIAS * (limits[1] - limits[0]):
        share = 100 * worst / (limits[1] - limits[0])
        reasons.append(
            f"The mean of a scene changes by {share:.2g} % of the brightness range, and at most "
            f"{100 * MAX_BIAS:.1g} % is allowed."
        )
    return Verdict(gain(scenes, 0), gain(scenes, 1), change, tuple(thirds), tuple(reasons))
