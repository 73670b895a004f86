"""Page of the report: the same values as in JSON, formatted, with charts and crops."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from engine.adaptation.report.charts import (
    CHANNELS,
    curve_chart,
    lag_chart,
    law_chart,
    residual_chart,
    residual_map,
)
from engine.adaptation.report.crops import Crop
from engine.adaptation.report.report import Report
from engine.adaptation.report.residual import BAND
from engine.evaluation.page import data_url, render
from engine.system.atomic_file import write_atomically

UNKNOWN = "not known"


def to_html(report: Report) -> str:
    """One file with everything in it. It loads nothing, and has no scripts."""
    values, adaptation = report.values, report.adaptation
    name = PurePath(values["folder"]).name or values["folder"]
    what = "Adaptation to the noise of" if adaptation else "Examination of"
    has_points = any(law.points for law in report.laws)
    return render(
        "engine.adaptation.report",
        "adaptation.html",
        {
            "title": f"{what} {name}",
            "values": values,
            "scenes": [_scene(each) for each in values["scenes"]],
            "findings": [_finding(each) for each in values["findings"]],
            "laws": _laws(values["law"]),
            "law_chart": law_chart(report.laws) if has_points else None,
            "correlation": [_correlation(each) for each in values["correlation"]],
            "lag_chart": lag_chart(report.lag) if report.lag else None,
            "curve_chart": _curve_chart(report),
            "gain": _gain(values["gain"]) if values["gain"] else None,
            "crops": [_crop(each) for each in report.crops],
            "residual": _residual(values["residual"]) if values["residual"] else None,
            "residual_map": residual_map(report.residual) if report.residual else None,
            "residual_chart": residual_chart(report.residual) if report.residual else None,
        },
    )


def write_html(report: Report, path: Path) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_html(report).encode())


def _curve_chart(report: Report) -> str | None:
    adaptation = report.adaptation
    return curve_chart(adaptation.curve, adaptation.verdict.before) if adaptation and adaptation.curve else None


def _scene(scene: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        scene["name"],
        scene["kind"],
        str(len(scene["shots"])),
        f"{scene['width']} x {scene['height']}",
        str(scene["channels"]),
        "-" if scene["noise"] is None else _number(scene["noise"]),
        "yes" if scene["usable"] else "no",
    )


def _finding(finding: Mapping[str, Any]) -> dict[str, str]:
    number, error = _number(finding["number"]), finding["error"]
    return {
        **{key: finding[key] for key in ("file", "check", "verdict", "reason")},
        "number": f"{number} ± {error:.1g}" if error else number,
    }


def _number(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}g}"


def _laws(laws: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    names = CHANNELS if len(laws) == len(CHANNELS) else ("",) * len(laws)
    return [
        {**_law(law), "channel": name or "grey", "name": f"{name}: " if name else ""}
        for law, name in zip(laws, names, strict=True)
    ]


def _law(law: Mapping[str, Any]) -> dict[str, str]:
    """A value and its interval each."""
    words = {key: _interval(law[key]) for key in ("gain", "pedestal", "read_noise")}
    gain, pedestal = _number(law["gain"]["value"]), _number(law["pedestal"]["value"], 4)
    formula = f"variance = {gain} × (sample − {pedestal}) + {_number(law['read_variance'])}"
    return {**words, "formula": formula, "confident": "yes" if law["confident"] else "no"}


def _interval(estimate: Mapping[str, float | None]) -> str:
    low, high = (_number(estimate[end], 4) for end in ("low", "high"))
    return f"{_number(estimate['value'], 4)} ({low} to {high})"


def _correlation(found: Mapping[str, Any]) -> dict[str, str]:
    space, time = found["space"], found["time"]
    words = {"scene": found["scene"], "space": "-", "neighbour": "-", "time": "-", "first": "-"}
    if space:
        words["space"] = f"{_decimal(space['value'], 3)} ± {_decimal(space['error'], 3)}"
        words["neighbour"] = f"{space['down']} down, {space['across']} across"
    if time:
        words["time"] = f"{_decimal(time['values'][0], 3)} ± {_decimal(time['error'], 3)}"
        first = time["independent_from"]
        words["first"] = "none of them" if first is None else f"{first} apart"
    return words


def _decimal(value: float | None, places: int) -> str:
    return UNKNOWN if value is None else f"{value:z.{places}f}"


def _gain(gain: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of the two tables: all of the range and its thirds, and the scenes."""
    keys = ("before", "after", "improvement")
    thirds = [
        (f"{third['name']} third", f"{third['share']:.0%}", *(_decibels(third[key]) for key in keys))
        for third in gain["thirds"]
    ]
    whole = ("all", "100%", *(_decibels(gain[key]) for key in keys))
    scenes = [
        (
            scene["name"],
            *(_decimal(scene[key], 2) for key in ("before", "after")),
            *(_number(scene[f"mean_change_{key}"]) for key in ("before", "after")),
        )
        for scene in gain["scenes"]
    ]
    return {"rows": [whole, *thirds], "scenes": scenes, **{key: _decibels(gain[key]) for key in keys}}


def _decibels(estimate: Mapping[str, float | None] | None) -> str:
    if estimate is None:
        return "too few pixels"
    value = _decimal(estimate["value"], 2)
    if estimate["low"] is None or estimate["high"] is None:
        return f"{value} (interval {UNKNOWN})"
    return f"{value} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def _crop(crop: Crop) -> dict[str, Any]:
    images = [
        {"caption": caption, "url": data_url(samples), "width": samples.shape[1], "height": samples.shape[0]}
        for caption, samples in crop.images
    ]
    contrast = (
        f"black is {crop.black:.4g}, white {crop.white:.4g}; "
        f"in the residual {-crop.residual_reach:.4g} and {crop.residual_reach:+.4g}"
    )
    return {"crop": crop, "contrast": contrast, "images": images}


def _residual(residual: Mapping[str, Any]) -> dict[str, str]:
    largest = residual["largest"]
    return {
        "error": f"{BAND * residual['error']:.4f}",
        "expected": "yes" if residual["expected"] else "",
        "pixels": f"{residual['pixels']:,}",
        "verdict": "The residual has structure." if residual["has_structure"] else "No structure is seen.",
        "share": f"{residual['share_outside']:.1%}",
        "largest": f"{largest['value']:+.4f}, expected {largest['expected']:+.4f}",
        "place": f"{largest['down']} down, {largest['across']} across",
        "deviation": _number(residual["deviation"]) if residual["deviation"] is not None else "",
    }
