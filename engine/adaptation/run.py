"""Adaptation: from a folder of noisy shots to weights for their noise, judged without a clean image."""

import hashlib
import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from engine.adaptation import gate
from engine.adaptation.examine import Examination, examine
from engine.adaptation.held_out import (
    brightness_range,
    denoised_shot,
    draw_held_out,
    errors,
    judged,
    words,
)
from engine.adaptation.noise_record import record_noise
from engine.adaptation.normalise import ScenesNormalisation, measure_laws
from engine.adaptation.pairs import pair_source
from engine.adaptation.result import Adaptation
from engine.adaptation.scenes import KindChoice
from engine.adaptation.shots import SceneShots, has_rows, scene_shots, to_white
from engine.adaptation.start import Start, choose_start, has_no_biases, recipe_for, refused_path
from engine.adaptation.training import Adapter, Look, Trained
from engine.inference.adapted_noise import GATE_KEY, PASSED, REFUSED, laws_to_metadata
from engine.inference.noise_estimation.noise_law import LawEstimate
from engine.layers import Module, parameters
from engine.models import checkpoint, precision
from engine.models.networks import build_network, kind_of
from engine.system.signals import stop_signals
from engine.training.loop import new_train_state
from engine.training.recipe import Recipe

# Default training time, in minutes.
MINUTES = 30.0
# For the person at the terminal, after Ctrl-C.
STOPPING = "Stopping: what was best is judged now. Press Ctrl-C again to drop it."
# Of the middle of held-out scenes, for the learning curve: their side in pixels, and their shots.
CURVE_SIDE = 384
CURVE_SHOTS = 2
# The packages that decide about the numbers.
PACKAGES = ("denoise", "torch", "numpy")


@dataclass(frozen=True)
class AdaptProgress:
    """What is being done. done: part of the stage, 0 to 1. examination: once it is known. look: the last one."""

    stage: Literal["examining", "preparing", "training", "judging"]
    done: float = 0.0
    look: Look | None = None
    examination: Examination | None = None


OnProgress = Callable[[AdaptProgress], None]


def adapt(
    folder: str | Path,
    out: str | Path,
    minutes: float = MINUTES,
    *,
    kind: KindChoice = "auto",
    start: str = "auto",
    seed: int = 0,
    steps: int = 0,
    on_progress: OnProgress | None = None,
    check: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Adaptation:
    """Train weights for the noise in a folder of noisy shots. No clean image is needed.

    Scenes that chance draws are held out. The weights are written to `out` only if they are better on these than
    those in service, with 95 % confidence; otherwise beside it, as NAME.refused.safetensors, and the result says
    why. out: a .safetensors file. minutes: of training; it ends sooner when nothing is gained. kind: what the
    shots are, in place of what is found. start: weights to begin from, by name or path; "auto" takes the
    shipped ones that suit best. steps: in place of minutes, for runs that can be repeated exactly. SIGINT ends
    the training, and what was best is judged. check: called between steps. While it waits, training is paused,
    and its minutes stand still. An error that it raises ends the work, and nothing is written. clock: measures
    the minutes, in seconds; for processes that are stopped from outside, one that then stands still.
    Raises ValueError if the folder cannot be learnt from, saying what to do, and OSError.
    """
    folder, out = Path(folder), Path(out)
    _check(out, minutes, steps)

    def tell(progress: AdaptProgress) -> None:
        check()
        if on_progress:
            on_progress(progress)

    examination = examine(
        folder, kind, lambda number, count, name: tell(AdaptProgress("examining", number / count))
    )
    tell(AdaptProgress("preparing", examination=examination))
    prepared = _prepare(examination, start, minutes, steps, seed)
    with stop_signals(STOPPING) as stopping:
        adapter = Adapter(
            new_train_state(prepared.recipe, precision.resolve("auto"), start=prepared.start.model.net),
            pair_source(prepared.training, prepared.recipe.patch, prepared.turn),
            [judged(scene).middle(CURVE_SIDE, CURVE_SHOTS) for scene in prepared.held_out],
            prepared.limits,
            lambda look: tell(AdaptProgress("training", look.done, look)),
            stopping.is_set,
            check,
            clock,
        )
        trained = adapter.run()
    tell(AdaptProgress("judging"))
    return _finish(prepared, adapter.state.net, trained, out, seed)


def _check(out: Path, minutes: float, steps: int) -> None:
    if out.suffix != checkpoint.SUFFIX:
        raise ValueError(f"{out}: the name of the weights must end in {checkpoint.SUFFIX}.")
    if out.is_dir():
        raise ValueError(f"{out} is a folder. Give the name of a file.")
    if minutes <= 0 or steps < 0:
        raise ValueError(f"The training needs more than 0 minutes or steps; got {minutes:g} and {steps}.")
    out.parent.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class _Prepared:
    """What is known before the training. limits: the brightness range of the held-out scenes."""

    examination: Examination
    laws: tuple[LawEstimate, ...]
    normalisation: ScenesNormalisation
    training: list[SceneShots]
    held_out: list[SceneShots]
    turn: bool
    start: Start
    in_service: Start
    recipe: Recipe
    limits: tuple[float, float]


def _prepare(examination: Examination, start: str, minutes: float, steps: int, seed: int) -> _Prepared:
    laws = measure_laws(examination.usable)
    normalisation = ScenesNormalisation(tuple(estimate.law for estimate in laws))
    scenes, left_out = scene_shots(examination, normalisation, seed)
    if not scenes:
        raise ValueError(_nothing_to_learn(examination, [each.reason for each in left_out]))
    if has_no_biases(start):
        scenes = to_white(scenes)
    training, held_out = draw_held_out(scenes, seed)
    trials = [judged(scene) for scene in training[:3]]
    chosen, in_service = choose_start(start, trials, max(each.channels for each in scenes))
    sides = sorted(min(scene.size) // (2 if scene.use == "single" else 1) for scene in training)
    recipe = recipe_for(
        chosen.model.config, sides[len(sides) // 4], minutes, steps, seed, chosen.model.net.stride
    )
    limits = brightness_range([judged(scene) for scene in held_out])
    turn = not has_rows(examination.usable)
    return _Prepared(
        examination, laws, normalisation, training, held_out, turn, chosen, in_service, recipe, limits
    )


def _nothing_to_learn(examination: Examination, reasons: list[str]) -> str:
    reasons += [each.reason for each in examination.findings if each.verdict == "left out"]
    because = f" For example: {reasons[0]}." if reasons else ""
    return (
        f"{examination.folder}: no scene of this folder can be learnt from.{because} See `denoise adapt --list`."
    )


def _finish(prepared: _Prepared, net: Module, trained: Trained, out: Path, seed: int) -> Adaptation:
    """Judge, save, and gather what is known."""
    start, recipe = prepared.start, prepared.recipe
    after = build_network(start.model.config)
    for own, given in zip(parameters(after), parameters(net), strict=True):
        own.layer.params[own.key] = given.value
    scenes = [judged(scene) for scene in prepared.held_out]
    outputs = [[scene.denoised(each) for scene in scenes] for each in (prepared.in_service.model.net, after)]
    found = errors(scenes, outputs, prepared.limits)
    verdict = gate.judge(found, prepared.limits)
    path = out if verdict.passed else refused_path(out)
    checkpoint.save(path, after, start.model.config, _metadata(prepared, trained, verdict))
    folder = prepared.examination.folder
    return Adaptation(
        folder=folder,
        examination=prepared.examination,
        laws=prepared.laws,
        held_out=tuple(scene.name for scene in scenes),
        errors=tuple(found),
        judged_by=words(prepared.held_out),
        verdict=verdict,
        curve=trained.curve,
        weights=path,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        start=start.name,
        start_digest=start.model.digest,
        in_service=prepared.in_service.name,
        in_service_digest=prepared.in_service.model.digest,
        seed=seed,
        minutes=trained.minutes,
        steps=trained.steps,
        versions=_versions(),
        command=_command(folder, out, recipe, start.name, seed),
        shots=tuple(map(denoised_shot, scenes, *outputs)),
        stopped=trained.stopped,
    )


def _metadata(prepared: _Prepared, trained: Trained, verdict: gate.Verdict) -> Mapping[str, str]:
    examination, start = prepared.examination, prepared.start
    scenes = [*prepared.training, *prepared.held_out]
    noise = record_noise(examination.usable, scenes, prepared.normalisation.laws)
    return {
        "recipe": json.dumps(prepared.recipe.to_dict()),
        "kind": kind_of(start.model.config),
        "start": f"{start.name} {start.model.digest}",
        "data": examination.folder.resolve().name,
        "adapted": f"{len(prepared.training)} scenes, {len(prepared.held_out)} held out",
        "gain": str(verdict.after),
        "improvement": str(verdict.improvement),
        "terms": start.model.metadata.get("terms", "not stated"),
        "steps": str(trained.steps),
        "seconds": f"{60 * trained.minutes:.0f}",
        "date": datetime.now(UTC).date().isoformat(),
        GATE_KEY: PASSED if verdict.passed else REFUSED,
        **laws_to_metadata(prepared.normalisation.laws),
        **(noise.to_metadata() if noise else {}),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _command(folder: Path, out: Path, recipe: Recipe, start: str, seed: int) -> str:
    """The command that repeats the run."""
    parts = ["denoise", "adapt", str(folder), "--out", str(out), "--start", start, "--seed", str(seed)]
    length = ["--steps", str(recipe.steps)] if recipe.steps else ["--minutes", f"{recipe.minutes:g}"]
    return shlex.join([*parts, *length])
