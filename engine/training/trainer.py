"""A training run that lasts: checkpoints, signals, resume, log. `python -m engine.job` needs no service.

A run leaves beside its weights NAME.safetensors a log NAME.jsonl, a NAME.checkpoint to resume from, and, once
the learning rate begins to fall, a NAME.constant.checkpoint from before: a longer run goes on from there.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch

from engine.data.sources import PairSource, ValidationSet, open_pair_source
from engine.layers import Layer, parameters
from engine.models import checkpoint as weights
from engine.models import precision
from engine.models.net2net import grow
from engine.models.networks import build_network, config_to_dict, kind_of
from engine.system.atomic_file import write_atomically
from engine.system.signals import stop_signals
from engine.training.config import Recipe, from_dict
from engine.training.loop import Diverged, Progress, Training, begin, train, validate

CHECKPOINT_FORMAT = "denoise-checkpoint-1"
VALIDATION_PICTURES = 32


@dataclass(frozen=True)
class LogLine:
    """One line of the log. seconds, megapixels: since the start of the run; psnr: in dB, on some lines only."""

    step: int
    seconds: float
    megapixels: float
    megapixels_per_second: float
    loss: float
    lr: float
    psnr: float | None
    seconds_left: float


@dataclass(frozen=True)
class TrainingJob:
    """What to train, on what, until when, and where to. every: seconds between log lines, validations and
    checkpoints. terms: the licence of the data, for the weights' metadata. device: "auto", "cpu" or "cuda".
    start: weights to begin a new run from, instead of drawn ones; a smaller network's grow into the recipe's.
    """

    recipe: Recipe
    out: Path
    data: Sequence[Path] = ()
    terms: str = "not stated"
    resume: bool = False
    device: str = "auto"
    start: Path | None = None
    log_every: float = 1.0
    validate_every: float = 60.0
    save_every: float = 180.0

    @property
    def checkpoint(self) -> Path:
        """Where the run can be taken up again."""
        return self.out.with_suffix(".checkpoint")

    @property
    def log(self) -> Path:
        """One JSON object a line."""
        return self.out.with_suffix(".jsonl")


def run(job: TrainingJob, report: Callable[[LogLine], None], warn: Callable[[str], None]) -> bool:
    """Train to the end, or to a signal; returns whether the end was reached.

    SIGINT and SIGTERM stop after the step in hand, with everything saved. Raises Diverged, ValueError for data
    or checkpoints that do not fit, and OSError if the last save fails.
    """
    if job.out.suffix != weights.SUFFIX:
        raise ValueError(f"the weights' name must end in {weights.SUFFIX}; got {job.out.name}")
    if job.checkpoint.exists() and not job.resume:
        raise ValueError(f"{job.checkpoint} exists: resume that run, or remove it to start anew")
    if job.start and job.resume:
        raise ValueError(f"a run goes on from its checkpoint or begins from {job.start}; not both")
    recipe = job.recipe
    source = open_pair_source(
        job.data,
        recipe.noise_model(),
        patch=recipe.patch,
        seed=recipe.seed,
        synthetic=recipe.synthetic,
        pattern_share=recipe.patterns,
        zoom=recipe.zoom,
        tries=recipe.tries,
        device=precision.pick_device(job.device),
    )
    training, origin, seconds = _load_checkpoint(job) if job.resume else _begin(job)
    with stop_signals() as stopping:
        keeper = _Keeper(job, training, origin, source.validation(VALIDATION_PICTURES), seconds, report, warn)
        return keeper.keep(source, stopping)


class _Origin(NamedTuple):
    """A run's name, and the weights that it began from, name and digest: nothing if they were drawn."""

    run: str
    start: str

    def to_dict(self) -> dict[str, str]:
        """For checkpoints and the metadata of weights."""
        return {"run": self.run} | ({"start": self.start} if self.start else {})


class _Keeper:
    """Stands beside the loop with the clock: logs, validates, saves."""

    def __init__(
        self,
        job: TrainingJob,
        training: Training,
        origin: _Origin,
        images: ValidationSet,
        seconds: float,
        report: Callable[[LogLine], None],
        warn: Callable[[str], None],
    ) -> None:
        self.job, self.training, self.origin, self.images = job, training, origin, images
        self.report, self.warn = report, warn
        # Seconds of earlier parts of the run count as this run's.
        self.began = time.monotonic() - seconds
        self.due = {"log": 0.0, "validate": self.seconds, "save": self.seconds + job.save_every}
        self.psnr: float | None = None
        # Taken up where the factor already falls, the run must not write over what was saved before it fell.
        self.decaying = training.schedule.decaying(self.done(training.step))
        self.speed: list[tuple[float, int]] = [(self.seconds, training.pixels)]
        job.log.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(job.log, b"".join(_lines_until(job.log, training.step) if job.resume else ()))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def done(self, step: int) -> float:
        """The part of the run that lies behind: counted in steps if the recipe has any, else in minutes."""
        recipe = self.job.recipe
        return step / recipe.steps if recipe.steps else self.seconds / (60 * recipe.minutes)

    def keep(self, source: PairSource, stopping: threading.Event) -> bool:
        """Run the loop. Returns whether it came to its end."""
        last: Progress | None = None
        with closing(train(self.training, source, self.done)) as steps:
            for last in steps:
                self._tend(last)
                if stopping.is_set():
                    break
        if last:
            self._log(last, validated=True)
        ended = self.done(self.training.step) >= 1
        self._save(self.job.checkpoint, ended)
        return ended

    def _tend(self, progress: Progress) -> None:
        now = self.seconds
        part = self.done(progress.step)
        if not self.decaying and self.training.schedule.decaying(part):
            self.decaying = True
            self._try(lambda: self._save(self.job.out.with_suffix(".constant.checkpoint")))
        if now >= self.due["validate"]:
            self.due["validate"] = now + self.job.validate_every
            self._log(progress, validated=True)
        elif now >= self.due["log"]:
            self._log(progress, validated=False)
        if now >= self.due["save"]:
            self.training.read_losses()
            if not self.training.watch.rising:
                self.due["save"] = now + self.job.save_every
                self._try(lambda: self._save(self.job.checkpoint))

    def _log(self, progress: Progress, validated: bool) -> None:
        if validated:
            self.psnr = validate(self.training, self.images)
        now = self.seconds
        self.due["log"] = now + self.job.log_every
        self.speed = [*self.speed[-60:], (now, progress.pixels)]
        # The last step ends a little after the last minute does.
        (then, pixels), part = self.speed[0], min(1.0, self.done(progress.step))
        line = LogLine(
            progress.step,
            round(now, 2),
            progress.pixels / 1e6,
            (progress.pixels - pixels) / 1e6 / max(now - then, 1e-9),
            progress.loss,
            progress.lr,
            self.psnr if validated else None,
            now * (1 - part) / part if part else 0.0,
        )
        self._try(lambda: self._append(line))
        self.report(replace(line, psnr=self.psnr))

    def _append(self, line: LogLine) -> None:
        with self.job.log.open("a") as log:
            log.write(json.dumps({k: v for k, v in asdict(line).items() if v is not None}) + "\n")

    def _try(self, write: Callable[[], None]) -> None:
        """In the middle of a run: if the disk is full the run goes on, and the last save stays whole."""
        try:
            write()
        except OSError as error:
            self.warn(f"could not save, will try again: {error}")

    def _save(self, checkpoint: Path, ended: bool = False) -> None:
        """The checkpoint and, once there was a step, the averaged weights.

        Weights of another run that have the same name are written over at the end alone, by a finished training.
        """
        training, job = self.training, self.job
        if not all(parameter.value.isfinite().all() for parameter in parameters(training.net)):
            raise Diverged(f"a weight is no finite number after step {training.step}; the last save is kept")
        about = {
            "format": CHECKPOINT_FORMAT,
            "recipe": json.dumps(training.recipe.to_dict()),
            "precision": precision.name_of(training.compute),
            "data": _names(job.data),
            **self.origin.to_dict(),
            "step": str(training.step),
            "pixels": str(training.pixels),
            "seconds": str(self.seconds),
        }
        write_atomically(checkpoint, safetensors.torch.save(training.state(), about))
        if not training.step or not (ended or _is_of_run(job.out, self.origin.run)):
            return
        training.average.swap()
        try:
            weights.save(job.out, training.net, training.recipe.spec(), self._metadata())
        finally:
            training.average.swap()

    def _metadata(self) -> dict[str, str]:
        training, job = self.training, self.job
        return {
            "recipe": json.dumps(training.recipe.to_dict()),
            **self.origin.to_dict(),
            "kind": kind_of(training.recipe.spec()),
            "data": _names(job.data),
            "terms": job.terms,
            "steps": str(training.step),
            "megapixels": f"{training.pixels / 1e6:.1f}",
            "seconds": f"{self.seconds:.0f}",
            "psnr": "" if self.psnr is None else f"{self.psnr:.2f}",
            "date": datetime.now(UTC).date().isoformat(),
        }


def _is_of_run(out: Path, name: str) -> bool:
    """Whether nothing would be lost: no weights are there, or this run's own from earlier."""
    return not out.exists() or weights.read_metadata(out).get("run") == name


def _names(data: Sequence[Path]) -> str:
    return ", ".join(path.resolve().name for path in data) or "dead leaves"


def _begin(job: TrainingJob) -> tuple[Training, _Origin, float]:
    """A new training, where it comes from, and no seconds yet."""
    device = precision.pick_device(job.device)
    compute = precision.resolve(job.recipe.precision, device)
    net, start = _start(job.start, job.recipe) if job.start else (None, "")
    return begin(job.recipe, compute, device, net), _Origin(secrets.token_hex(8), start), 0.0


def _start(path: Path, recipe: Recipe) -> tuple[Layer, str]:
    """The recipe's network with a file's weights, grown if it is larger, and the file's name and digest.

    Raises ValueError saying both networks if the file's has no place in the recipe's.
    """
    model, spec = weights.load(path), recipe.spec()
    net = model.net
    if model.spec != spec:
        net = build_network(spec, torch.Generator().manual_seed(recipe.seed))
        try:
            grow(model.net, net)
        except ValueError as error:
            held, wanted = (json.dumps(config_to_dict(spec)) for spec in (model.spec, spec))
            raise ValueError(f"{path}: holds the network {held}; the recipe trains {wanted}: {error}") from error
    return net, f"{model.name} {model.digest}"


def _load_checkpoint(job: TrainingJob) -> tuple[Training, _Origin, float]:
    """The training as it was, where it comes from, and the seconds it had taken. Its end may differ from then."""
    path = job.checkpoint
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            about, state = opened.metadata() or {}, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: no checkpoint to resume from: {error}") from error
    if about.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(f"{path}: format {about.get('format')!r}; this version reads {CHECKPOINT_FORMAT!r}")
    was = from_dict(json.loads(about["recipe"]), str(path))
    if replace(was, steps=job.recipe.steps, minutes=job.recipe.minutes) != job.recipe:
        changed = [k for k, v in was.to_dict().items() if v != job.recipe.to_dict()[k]]
        raise ValueError(f"{path}: began with another recipe; these differ: {', '.join(changed)}")
    if about["data"] != _names(job.data):
        raise ValueError(f"{path}: began with other data, {about['data']}; got {_names(job.data)}")
    training = begin(job.recipe, precision.resolve(about["precision"]), precision.pick_device(job.device))
    training.load_state(state)
    training.step, training.pixels = int(about["step"]), int(about["pixels"])
    return training, _Origin(about["run"], about.get("start", "")), float(about["seconds"])


def _lines_until(log: Path, step: int) -> Iterator[bytes]:
    """The log's lines up to a step. After a power cut it holds steps that will be taken again, or half a line."""
    for line in log.read_bytes().splitlines(keepends=True) if log.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                yield line
        except ValueError:
            continue
