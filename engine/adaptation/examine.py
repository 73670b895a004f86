"""Examination of a folder of noisy shots: what it holds, and what the pair doctor finds in it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.adaptation.doctor.findings import Finding, least_deviations
from engine.adaptation.doctor.scene_check import SceneCheck, check_scene
from engine.adaptation.doctor.verdicts import judge_all, judge_amount, judge_scene
from engine.adaptation.scenes import Kind, KindChoice, LeftOut, find_scenes
from engine.inference.noise_estimation.noise_law import LawEstimate

# Called before each scene: how many are done, how many there are, and its name.
Progress = Callable[[int, int, str], None]
# Tests of a shot: its shift and its brightness.
_TESTS = 2


@dataclass(frozen=True)
class Examination:
    """What a folder holds, and what training has to know of it.

    scenes: with what to correct and to mask. findings: in order of the scenes, those of the whole folder last.
    left_out: files that no scene has.
    """

    folder: Path
    scenes: tuple[SceneCheck, ...]
    findings: tuple[Finding, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def kinds(self) -> dict[Kind, int]:
        """How many scenes there are of each kind."""
        return dict(Counter(check.scene.kind for check in self.scenes))

    @property
    def usable(self) -> tuple[SceneCheck, ...]:
        """The scenes that can be learnt from."""
        refused = {each.file for each in self.findings if each.verdict == "left out"}
        return tuple(
            check
            for check in self.scenes
            if check.scene.name not in refused
            and any(shot.used and shot.shot.name_in(self.folder) not in refused for shot in check.shots)
        )

    @property
    def law(self) -> LawEstimate | None:
        """The noise law of the scene that lies in the middle by its gain; None if none was measured."""
        laws = sorted((check.laws[len(check.laws) // 2] for check in self.scenes if check.laws), key=_gain)
        return laws[len(laws) // 2] if laws else None


def _gain(law: LawEstimate) -> float:
    return law.law.gain


def examine(folder: Path, kind: KindChoice = "auto", on_progress: Progress | None = None) -> Examination:
    """Look at all shots of a folder and its subfolders.

    kind: what to take them for, in place of what names and images say. Raises ValueError for a folder without
    shots.
    """
    found = find_scenes(folder, kind)
    least = least_deviations(_TESTS * sum(len(scene.shots) for scene in found.scenes))
    checks: list[SceneCheck] = []
    findings: list[Finding] = []
    left_out = list(found.left_out)
    for number, scene in enumerate(found.scenes):
        if on_progress:
            on_progress(number, len(found.scenes), scene.name)
        try:
            check, more = judge_scene(check_scene(scene, least), folder, least)
        except (ValueError, OSError) as error:
            left_out.append(LeftOut(scene.shots[0].path, str(error)))
            continue
        checks.append(check)
        findings += more
    checks, of_all = judge_all(checks, folder, least)
    findings += of_all
    refused = frozenset(each.file for each in findings if each.verdict == "left out")
    findings += judge_amount(checks, folder, refused)
    return Examination(folder, tuple(checks), tuple(findings), tuple(left_out))
