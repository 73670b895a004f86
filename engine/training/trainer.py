"""Trainer: runs a training job with a log, validation and checkpoints, until its end or a signal.

Beside the weights NAME.safetensors a run leaves:

- NAME.jsonl, its log;
- NAME.checkpoint, from which it can be resumed;
- NAME.constant.checkpoint, from just before the learning rate began to fall: a longer run can continue from it.
"""

import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from engine.models import checkpoint as weights
from engine.models import precision
from engine.models.networks import kind_of
from engine.system.atomic_file import write_atomically
from engine.system.os_errors import describe
from engine.system.signals import stop_signals
from engine.training import workers as groups
from engine.training.agreement import check_images
from engine.training.checkpoint import data_names, encode_checkpoint
from engine.training.data import open_data
from engine.training.log import LogLine, TrainingLog
from engine.training.loop import Progress, noisy_psnr, train, validate
from engine.training.recipe import Recipe
from engine.training.start import begin_run
from engine.training.training_job import TrainingJob
from engine.training.workers import AgreedProgress, WorkerLost, Workers

VALIDATION_IMAGES = 32
# The speed in the log is the mean over this many lines.
SPEED_LINES = 61
# Early in a run the PSNR changes fast, so it is measured after this many seconds, and then at each doubling.
EARLY_VALIDATION = 10.0


def run(job: TrainingJob, report: Callable[[LogLine], None], warn: Callable[[str], None]) -> bool:
    """Train to the end, or to a signal; returns whether the end was reached.

    SIGINT and SIGTERM stop the run after the current step, with everything saved. Raises Diverged, ValueError for
    data or checkpoints that do not fit, WorkerLost, and OSError if the last save fails.
    A process that torchrun started is one worker of the run. Only worker 0 reports and saves.
    """
    device = groups.own_device(precision.pick_device(job.device))
    # First, so the other workers notice if this one ends with an error.
    with closing(groups.join(device, precision.resolve(job.wire), job.peer_timeout)) as workers:
        if workers.rank:
            return follow(job, workers, device)
        return Trainer(job, workers, device, report, warn).run()


def follow(job: TrainingJob, workers: Workers, device: torch.device) -> bool:
    """Work as any worker but the first: make steps. Returns whether the end was reached."""
    state, _, _ = begin_run(job, workers, device)
    # Worker 0 warns.
    opened = open_data(job.data, job.recipe, device, lambda text: None)
    check_images(workers, opened.counts)
    workers.wait_until_ready()
    with stop_signals() as stopping:
        # Worker 0 counts.
        progress = AgreedProgress(workers, lambda step: 0.0, stopping)
        for _ in train(state, opened.source, progress, workers):
            pass
    return progress.ended


class RunClock:
    """The time of a run. seconds: what earlier parts of the run took."""

    def __init__(self, recipe: Recipe, seconds: float) -> None:
        self.recipe = recipe
        self.start = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Since the start of the run, without pauses between a stop and a resume."""
        return time.monotonic() - self.start

    def progress(self, step: int) -> float:
        """The part of the run that is done: counted in steps if the recipe has any, or else in minutes."""
        recipe = self.recipe
        return step / recipe.steps if recipe.steps else self.seconds / (60 * recipe.minutes)


class Trainer:
    """One run of a job, as worker 0 or the only one: the loop, and what happens between its steps.

    report: called with each line of the log, with the last PSNR that was measured and the noisy images'. warn:
    called with a message when a file could not be written, or a photo could not be read.
    """

    def __init__(
        self,
        job: TrainingJob,
        workers: Workers,
        device: torch.device,
        report: Callable[[LogLine], None],
        warn: Callable[[str], None],
    ) -> None:
        self.job, self.workers, self.report, self.warn = job, workers, report, warn
        continues = job.continues
        # Before the data, which may take minutes to read.
        self.state, self.origin, seconds = begin_run(job, workers, device)
        opened = open_data(job.data, job.recipe, device, warn)
        check_images(workers, opened.counts)
        self.source, self.counts = opened.source, opened.counts
        self.validation_set = self.source.validation(VALIDATION_IMAGES)
        self.noisy_psnr = noisy_psnr(self.validation_set)
        self.psnr: float | None = None
        self.has_warned = False
        self.has_counted = False
        self.log = TrainingLog(job.log, self.state.step if continues else None)
        workers.wait_until_ready()
        self.clock = RunClock(job.recipe, seconds)
        # If the learning rate falls already, the checkpoint from before must not be written over.
        self.is_decaying = self.state.schedule.decaying(self.clock.progress(self.state.step))
        # The content of that checkpoint until it is written: the state goes on, so it cannot be made again.
        self.unwritten_constant: bytes | None = None
        self.next_log = 0.0
        self.next_validation = self.clock.seconds
        self.next_save = self.clock.seconds + job.save_every
        self.recent = deque([(self.clock.seconds, self.state.pixels)], SPEED_LINES)

    # The loop

    def run(self) -> bool:
        """Train. Returns whether the end was reached."""
        last: Progress | None = None
        with stop_signals() as stopping:
            progress = AgreedProgress(self.workers, self.clock.progress, stopping)
            try:
                with closing(train(self.state, self.source, progress, self.workers)) as steps:
                    for last in steps:
                        self._after_step(last)
            except WorkerLost:
                # On a GPU, a failed exchange may have reached the weights.
                if last and self.state.device.type == "cpu":
                    self._try_to_write(self._save)
                raise
            if last:
                self._validate_and_log(last)
            self._save(progress.ended)
            self._write_constant_checkpoint()
        return progress.ended

    def _after_step(self, progress: Progress) -> None:
        now = self.clock.seconds
        if not self.is_decaying and self.state.schedule.decaying(self.clock.progress(progress.step)):
            self.is_decaying = True
            self.unwritten_constant = self._encode_checkpoint()
            self._try_to_write(self._write_constant_checkpoint)
            self._try_to_write(self._save_weights)
        if now >= self.next_validation:
            self.next_validation = now + min(self.job.validate_every, max(EARLY_VALIDATION, now))
            self._validate_and_log(progress)
        elif now >= self.next_log:
            self._log(progress, None)
        if now >= self.next_save and not self.state.is_rising():
            self.next_save = now + self.job.save_every
            self._try_to_write(self._save)
            self._try_to_write(self._write_constant_checkpoint)

    # Validation and the log

    def _validate_and_log(self, progress: Progress) -> None:
        self.psnr = validate(self.state, self.validation_set)
        if self.psnr is None and not self.has_warned:
            self.has_warned = True
            self.warn("the held-out PSNR is unknown: what is left of the error is less than these pairs can show")
        self._log(progress, self.psnr)

    def _log(self, progress: Progress, psnr: float | None) -> None:
        now = self.clock.seconds
        self.next_log = now + self.job.log_every
        self.recent.append((now, progress.pixels))
        (then, pixels) = self.recent[0]
        # The last step ends a little after the last minute does.
        part = min(1.0, self.clock.progress(progress.step))
        line = LogLine(
            progress.step,
            round(now, 2),
            progress.pixels / 1e6,
            (progress.pixels - pixels) / 1e6 / max(now - then, 1e-9),
            progress.loss,
            progress.lr,
            psnr,
            now * (1 - part) / part if part else 0.0,
            data=self.counts.words if self.counts and not self.has_counted else None,
        )
        self.has_counted = True
        self._try_to_write(lambda: self.log.append(line))
        self.report(replace(line, psnr=self.psnr, noisy_psnr=self.noisy_psnr))

    # Saving

    def _try_to_write(self, write: Callable[[], None]) -> None:
        """Write, or warn if that fails: the run continues, and the previous save stays intact."""
        try:
            write()
        except OSError as error:
            self.warn(f"could not save: {describe(error)}")

    def _save(self, ended: bool = False) -> None:
        """Write the checkpoint and the weights."""
        write_atomically(self.job.checkpoint, self._encode_checkpoint())
        self._save_weights(ended)

    def _save_weights(self, ended: bool = False) -> None:
        """Write the averaged weights, after the first step.

        Weights of another run with the same name are replaced only by a run that has ended.
        """
        state, job = self.state, self.job
        if not state.step or not (ended or _may_replace(job.out, self.origin.run)):
            return
        state.ema.swap()
        try:
            weights.save(job.out, state.net, state.recipe.network_config(), self._metadata())
        finally:
            state.ema.swap()

    def _write_constant_checkpoint(self) -> None:
        """Write the checkpoint from just before the learning rate began to fall, unless that is done."""
        if self.unwritten_constant is not None:
            write_atomically(self.job.constant_checkpoint, self.unwritten_constant)
            self.unwritten_constant = None

    def _encode_checkpoint(self) -> bytes:
        job = self.job
        return encode_checkpoint(self.state, self.origin, job.data, self.clock.seconds, job.name)

    def _metadata(self) -> dict[str, str]:
        state, job = self.state, self.job
        return {
            "recipe": json.dumps(state.recipe.to_dict()),
            **self.origin.to_dict(),
            "kind": kind_of(state.recipe.network_config()),
            "data": data_names(job.data),
            **({"images": self.counts.words} if self.counts else {}),
            "terms": job.terms,
            "steps": str(state.step),
            "megapixels": f"{state.pixels / 1e6:.1f}",
            "seconds": f"{self.clock.seconds:.0f}",
            "psnr": "" if self.psnr is None else f"{self.psnr:.2f}",
            "date": datetime.now(UTC).date().isoformat(),
        }


def _may_replace(out: Path, run: str) -> bool:
    """Whether there are no weights yet, or those of an earlier part of this run."""
    return not out.exists() or weights.read_metadata(out).get("run") == run
