"""Folder watcher: denoises the images in a folder, and those that arrive, each once.

The folder is listed again and again. Network shares, where scanners and cameras put their files, send no events
for what other machines write, so the system's events, and libraries based on them, would miss files.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import NamedTuple

from engine.batch.finding import is_image_file
from engine.batch.journal import Journal
from engine.batch.planning import KEEP, Task, is_folder, task_for, tasks_for
from engine.batch.progress import TaskStopped, stop_between_pages
from engine.batch.reading import READ_HERE, Reader
from engine.batch.tasks import DenoiseOptions, Outcome, SourceChanged, denoise_file
from engine.inference.model_selection import NetworkSelector
from engine.storage.bucket import FileStamp
from engine.storage.locations import Location
from engine.system.file_names import earlier_results
from engine.system.os_errors import describe, reason

if sys.platform == "linux":
    import fcntl
    import signal

# Seconds from one listing of the folder to the next.
POLL_INTERVAL = 1.0
# Seconds to wait after an error of a disk.
RETRY_INTERVAL = 30.0
# Seconds without changes after which a file is complete, if it is not known whether something writes to it.
UNKNOWN_DELAY = 5.0
# Seconds without changes after which a file is complete that is open for writing. Some shares report that of
# every file, so it is not trusted for longer.
OPEN_DELAY = 60.0


class _Sighting(NamedTuple):
    """A file's stamp, and when it was first seen with it."""

    stamp: FileStamp
    since: float


def check_folders(folder: Path, out: str | Path) -> None:
    """Raises ValueError unless `folder` can be watched and its outputs can go to `out`."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder to watch")
    path = Path(out)
    if not is_folder(out) or (path.exists() and not path.is_dir()):
        raise ValueError(
            f"{out}: the outputs of a watched folder need an output folder; "
            f"if its name has a dot, end it with a slash"
        )
    absolute = path.resolve()
    if any(place.exists() and place.samefile(folder) for place in (absolute, *absolute.parents)):
        raise ValueError(
            f"{out} is inside {folder}, so outputs would be denoised again; choose an output folder elsewhere"
        )


@dataclass
class FolderWatcher:
    """Watches a folder without its subfolders. Outputs go to the journal's folder; check_folders checks both.

    overwrite: replace outputs that exist.
    warn: is called, once for each reason, when something other than its pixels keeps a file from being denoised.
    poll_interval, retry_interval: in seconds. reader: reads the files; see `sandboxed`.
    """

    folder: Path
    journal: Journal
    warn: Callable[[str], None]
    format: str = KEEP
    overwrite: bool = False
    poll_interval: float = POLL_INTERVAL
    retry_interval: float = RETRY_INTERVAL
    reader: Reader = READ_HERE
    _seen: dict[Location, _Sighting] = field(default_factory=dict)
    _warned: dict[Location, tuple[FileStamp, str]] = field(default_factory=dict)
    _trouble: str = ""

    def __post_init__(self) -> None:
        # These go last: a file that ended the process, or that a disk cannot read, must not block the others.
        self._last = set(self.journal.interrupted)

    def outcomes(self, select: NetworkSelector, options: DenoiseOptions, stopping: Event) -> Iterator[Outcome]:
        """Denoise files as they arrive, until `stopping` is set. The current image is finished then.

        Of a file with pages, only the current page is finished, and nothing is written.

        A file that cannot be denoised is not tried again until it changes. While a disk is full or missing, files
        wait.
        """
        while not stopping.is_set():
            pause = self.poll_interval
            try:
                for task in self.ready(time.monotonic()):
                    yield from self._denoise(select, task, options, stopping)
                    if stopping.is_set():
                        return
            except OSError as error:
                pause = self.retry_interval
                if describe(error) != self._trouble:
                    self._trouble = describe(error)
                    self.warn(f"{self._trouble}; trying again every {self.retry_interval:g} seconds")
            stopping.wait(pause)

    def ready(self, now: float) -> list[Task]:
        """The files that are complete and not done, by name. now: seconds of a clock."""
        before, stamps = self._seen, _image_stamps(self.folder)
        self._seen = {file: _Sighting(stamp, now) for file, stamp in stamps.items()}
        self._seen |= {file: seen for file, seen in before.items() if stamps.get(file) == seen.stamp}
        if not (files := {file for file in self._seen if self._is_ready(file, now)}):
            return []
        tasks = [task for task in self._tasks() if task.source in files]
        return sorted(tasks, key=lambda task: (task.source.absolute() in self._last, str(task.source)))

    def _tasks(self) -> Iterator[Task]:
        """The tasks of all files in the folder. A file keeps the output's name that it had before."""
        for task in tasks_for(self.journal.folder, list(self._seen), self.format):
            short = task_for(self.journal.folder, task.source, self.format)
            yield short if self.journal.maker(short.target) == task.source.absolute() else task

    def _is_ready(self, file: Location, now: float) -> bool:
        stamp, since = self._seen[file]
        if self.journal.finished(file, stamp):
            return False
        try:
            return now - since >= _delay(file)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._warn_once(file, reason(error))
            return False

    def _denoise(
        self, select: NetworkSelector, task: Task, options: DenoiseOptions, stopping: Event
    ) -> Iterator[Outcome]:
        if not self._may_write(task):
            return
        try:
            on_progress = stop_between_pages(stopping)
            outcome = denoise_file(select, task, options, self.journal, self.reader, on_progress)
        except (SourceChanged, TaskStopped):
            return
        except OSError:
            self._last.add(task.source.absolute())
            # A file that was removed meanwhile is not an error.
            if not task.source.exists():
                return
            raise
        self._trouble = ""
        yield outcome

    def _may_write(self, task: Task) -> bool:
        """Whether the output's name is free; otherwise warns."""
        if task.target.is_dir():
            self._warn_once(task.source, f"{task.target}, its output, is a folder; rename one")
            return False
        rival = self.journal.maker(task.target)
        if rival and rival != task.source.absolute() and rival.exists():
            self._warn_once(
                task.source, f"its output would be {task.target}, which was made from {rival}; rename one"
            )
            return False
        if not self.overwrite and not self.journal.may_replace(task.source, task.target):
            self._warn_once(task.source, f"{task.target} exists already; remove it, or replace it with --force")
            return False
        return True

    def _warn_once(self, file: Location, words: str) -> None:
        warning = self._seen[file].stamp, words
        if self._warned.get(file) != warning:
            self._warned[file] = warning
            self.warn(f"{file}: {words}")


def _image_stamps(folder: Path) -> dict[Location, FileStamp]:
    found: dict[Location, FileStamp] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_file() and is_image_file(Path(entry.path)):
                    status = entry.stat()
                    found[Path(entry.path)] = status.st_size, status.st_mtime_ns
            except FileNotFoundError:
                continue
    for result in earlier_results(found):
        del found[result]
    return found


def _delay(file: Location) -> float:
    """Seconds without changes after which the file is complete. Raises OSError if it cannot be opened."""
    assert isinstance(file, Path), "watched folders are on this machine"
    with file.open("rb") as opened:
        # An empty file is probably not complete.
        if sys.platform != "linux" or not os.fstat(opened.fileno()).st_size:
            return UNKNOWN_DELAY
        try:
            # If another process opens the file for writing before the lease ends, an ignored signal is sent.
            fcntl.fcntl(opened, fcntl.F_SETSIG, signal.SIGURG)
            # Granted only if no process has the file open for writing.
            fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            return OPEN_DELAY
        except OSError:
            return UNKNOWN_DELAY
    return 0.0
