"""The doctor's report as plain text: what a folder holds, the table of findings, and what was left out."""

from collections.abc import Sequence

from engine.adaptation.doctor.findings import Finding
from engine.adaptation.examine import Examination
from engine.adaptation.scenes import Kind

_KIND_WORDS: dict[Kind, tuple[str, str]] = {
    "pair": ("pair", "pairs"),
    "burst": ("burst", "bursts"),
    "stack": ("stack", "stacks"),
    "mean": ("scene with noisy shots and the mean of many", "scenes with noisy shots and the mean of many"),
    "single": ("single shot", "single shots"),
}
_HEADINGS = ("file", "check", "verdict", "number", "reason")


def render(examination: Examination) -> str:
    """The whole report, without a line break at its end."""
    lines = [f"{examination.folder}: {contents(examination)}."]
    if law := examination.law:
        gain, pedestal, read_variance = law.law.gain, law.law.pedestal, law.law.read_variance
        lines.append(f"Noise: its variance is {gain:.3g} x (sample - {pedestal:.4g}) + {read_variance:.3g}.")
    lines.append("")
    lines += _table(examination.findings) if examination.findings else ["The doctor found nothing."]
    if examination.left_out:
        lines += ["", "Left out:"]
        lines += [
            f"  {each.path.relative_to(examination.folder)}: {each.reason}" for each in examination.left_out
        ]
    return "\n".join(lines)


def contents(examination: Examination) -> str:
    """How many scenes of each kind there are, and how many shots, in words."""
    parts = []
    for kind, (one, many) in _KIND_WORDS.items():
        count = examination.kinds.get(kind, 0)
        if count:
            parts.append(f"{count} {one if count == 1 else many}")
    shots = sum(len(check.scene.shots) for check in examination.scenes)
    return f"{', '.join(parts) or 'no scenes'}; {shots} noisy shot{'s' * (shots != 1)}"


def _table(findings: Sequence[Finding]) -> list[str]:
    rows = [_HEADINGS, *((each.file, each.check, each.verdict, _number(each), each.reason) for each in findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in cells]


def _number(finding: Finding) -> str:
    return f"{finding.number:.3g}" + (f" +- {finding.error:.1g}" if finding.error else "")
