"""Progress of a batch: a bar in a terminal, a line for each file elsewhere, and a summary at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from service.cli.console import LINE_INTERVAL, err, error, warn

if TYPE_CHECKING:
    from engine.batch.progress import TaskProgress
    from engine.batch.tasks import Outcome
    from engine.storage.locations import Location

MINUTE = 60
HOUR = 3600


class BatchProgress:
    """What a batch tells while it runs. total: number of images.

    quiet: only tell what failed. verbose: a line for each file in a terminal too. at_once: many images are in
    work at once, so only verbose has a line for each, and elsewhere a line tells from time to time how many are
    done.
    """

    def __init__(self, total: int, quiet: bool = False, verbose: bool = False, at_once: bool = False) -> None:
        self.total, self.quiet, self.at_once = total, quiet, at_once
        self.done = 0
        self.pixels = 0
        self.failed: list[str] = []
        is_followed = not err.is_terminal and not at_once
        self._tells_files = not quiet and (is_followed or verbose or total == 1)
        self._start = time.monotonic()
        self._next_line = self._start + LINE_INTERVAL
        self._file_start = self._start
        self._bar: Progress | None = None
        self._bar_task = TaskID(0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the bar, in a terminal."""
        # Only the words give way where the terminal is narrow. The others keep their widths.
        shortened = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        columns = (
            TextColumn("{task.description}", markup=False, table_column=shortened),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}", markup=False),
            TimeRemainingColumn(),
        )
        hidden = self.quiet or not err.is_terminal
        with Progress(*columns, console=err, disable=hidden, transient=True, expand=True) as self._bar:
            self._bar_task = self._bar.add_task("starting", total=self.total, count="")
            yield

    def update(self, progress: "TaskProgress") -> None:
        """Show the current file, the noise found in it, the model, and how far it is."""
        if not progress.noise:
            self._file_start = time.monotonic()
            self._next_line = self._file_start + LINE_INTERVAL
        part = progress.pages_done / progress.pages
        pages = f"page {progress.pages_done} of {progress.pages}" if progress.pages > 1 else ""
        if self._bar:
            words = "  ".join(filter(None, (progress.task.source.name, progress.noise)))
            count = pages or f"{self.done + 1}/{self.total}"
            self._bar.update(self._bar_task, description=words, completed=self.done + part, count=count)
        if pages and self._tells_files and not err.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_INTERVAL
            took = time.monotonic() - self._file_start
            left = f", {duration(took * (1 - part) / part)} left" if part else ""
            warn(f"{_name(progress.task.source)}: {pages}{left}")

    def finish(self, outcome: "Outcome") -> None:
        """Tell what became of a file."""
        self.done += 1
        self.pixels += outcome.pixels
        source = _name(outcome.task.source)
        if outcome.error:
            self.failed.append(source)
            warn(f"{source}: {outcome.error}")
        elif self._tells_files:
            warn(file_line(outcome))
        elif outcome.changed and not self.quiet and not self.at_once:
            warn(f"{source}: {'; '.join(outcome.changed)}")
        if self.at_once:
            self._tell_all(outcome)

    def _tell_all(self, outcome: "Outcome") -> None:
        """Show how many images are done, how fast, and how long the others will take."""
        count = f"{self.done}/{self.total}  {self.speed}"
        if self._bar:
            name = outcome.task.source.name
            self._bar.update(self._bar_task, description=name, completed=self.done, count=count)
        if not self.quiet and not err.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_INTERVAL
            left = (time.monotonic() - self._start) * (self.total - self.done) / self.done
            warn(f"{self.done} of {self.total} images, {self.speed}, {duration(left)} left")

    @property
    def speed(self) -> str:
        """Images and megapixels a second."""
        took = max(time.monotonic() - self._start, 1e-3)
        return f"{self.done / took:.2f} images and {self.pixels / 1e6 / took:.2f} megapixels a second"

    def summarise(self) -> None:
        """Tell how many images were done, how long that took, and what failed."""
        from engine.batch.planning import join_some

        took = time.monotonic() - self._start
        count = self.done - len(self.failed)
        if not self.quiet and count:
            rate = f"{self.pixels / 1e6 / max(took, 1e-3):.2f} megapixels a second"
            rate = self.speed if self.at_once else rate
            warn(f"{count} image{'s' * (count != 1)} denoised in {duration(took)}, {rate}")
        if self.failed:
            names = join_some(self.failed)
            error(f"{len(self.failed)} of {self.total} images could not be denoised: {names}")


def file_line(outcome: "Outcome") -> str:
    """One line about a finished file."""
    source, target = _name(outcome.task.source), str(outcome.task.target)
    result = "standard output" if target == "-" else target
    return f"{source}: {outcome.error or '; '.join((result, *outcome.words))}"


def duration(seconds: float) -> str:
    """A time for people: "4.2 s", "3 min 20 s", "1 h 5 min"."""
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"


def _name(source: "Location") -> str:
    return "standard input" if str(source) == "-" else str(source)
