"""A folder that is watched: the images in it, and those that arrive, are denoised, each once.

The folder is looked at again and again. Shares on a network, where scanners and cameras put their files, do not
tell what other machines write to them, so the system's events, and libraries that wait for them, would not do.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import NamedTuple

from engine.batch.journal import Journal, Stamp
from engine.batch.tasks import (
    PNG,
    Changed,
    DenoiseOptions,
    Outcome,
    Task,
    denoise_file,
    into,
    is_folder,
)
from engine.imageio.read import is_image_name
from engine.inference.model_selection import NetworkSelector

if sys.platform == "linux":
    import fcntl
    import signal

# Seconds from one look to the next, and after something was wrong with a disk.
EVERY, RETRY = 1.0, 30.0
# Seconds for which a file must have stayed as it is to be taken for whole: where it is not known who has it open,
# and where it is said to be open for writing. Some shares say so of every file, so it is not believed for ever.
UNKNOWN, OPEN = 5.0, 60.0


class _Seen(NamedTuple):
    """A file's stamp, and since when it has it."""

    stamp: Stamp
    since: float


def check(folder: Path, out: Path) -> None:
    """Raises ValueError unless `folder` can be watched and its outputs go to `out`."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder to watch")
    if not is_folder(out) or (out.exists() and not out.is_dir()):
        raise ValueError(f"{out}: what is made of a folder that is watched goes to a folder")
    whole = out.resolve()
    if any(place.exists() and place.samefile(folder) for place in (whole, *whole.parents)):
        raise ValueError(
            f"{out} is in {folder}, whose outputs would arrive there in turn; give a folder elsewhere"
        )


@dataclass
class FolderWatcher:
    """Watches a folder, and none within it; outputs go to the journal's. Both have passed `check`.

    force: write over outputs that are there. warn: gets in words, and once, what keeps a file from being done
    and is not its pixels. every, retry: seconds from one look to the next, and after a disk's error.
    """

    folder: Path
    journal: Journal
    warn: Callable[[str], None]
    format: str = PNG
    force: bool = False
    every: float = EVERY
    retry: float = RETRY
    _seen: dict[Path, _Seen] = field(default_factory=dict)
    _told: dict[Path, tuple[Stamp, str]] = field(default_factory=dict)
    _trouble: str = ""

    def __post_init__(self) -> None:
        # What the process was killed at, or a disk fails to read, must not keep the others waiting.
        self._last = set(self.journal.interrupted)

    def outcomes(self, choose: NetworkSelector, order: DenoiseOptions, stopping: Event) -> Iterator[Outcome]:
        """What becomes of each file, until told to stop: what is in work is done, and no other begun.

        A file that cannot be denoised is not tried again until it changes. While a disk is full or gone, files
        wait.
        """
        while not stopping.is_set():
            pause = self.every
            try:
                for task in self.ready(time.monotonic()):
                    yield from self._do(choose, task, order)
                    if stopping.is_set():
                        return
            except OSError as error:
                pause = self.retry
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    self.warn(f"{error}; tried again every {self.retry:g} seconds")
            stopping.wait(pause)

    def ready(self, now: float) -> list[Task]:
        """What can be done at this second of a clock: the files that are whole and not done, in order of name."""
        before, here = self._seen, _images(self.folder)
        self._seen = {file: _Seen(stamp, now) for file, stamp in here.items()}
        self._seen |= {file: seen for file, seen in before.items() if here.get(file) == seen.stamp}
        files = [file for file in self._seen if self._is_ready(file, now)]
        files.sort(key=lambda file: (file.absolute() in self._last, file))
        return [into(self.journal.folder, file, self.format) for file in files]

    def _is_ready(self, file: Path, now: float) -> bool:
        stamp, since = self._seen[file]
        if self.journal.ended(file, stamp):
            return False
        try:
            return now - since >= _patience(file)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._tell(file, str(error))
            return False

    def _do(self, choose: NetworkSelector, task: Task, order: DenoiseOptions) -> Iterator[Outcome]:
        if not self._is_free(task):
            return
        try:
            outcome = denoise_file(choose, task, order, self.journal)
        except Changed:
            return
        except OSError:
            self._last.add(task.source.absolute())
            # Taken away again, which is nobody's fault.
            if not task.source.exists():
                return
            raise
        self._trouble = ""
        yield outcome

    def _is_free(self, task: Task) -> bool:
        """Whether the output's name is; else says why not."""
        rival = self.journal.maker(task.target)
        if rival and rival != task.source.absolute() and rival.exists():
            self._tell(task.source, f"would be written to {task.target}, where {rival} already is")
            return False
        if not self.force and not self.journal.may_replace(task.source, task.target):
            self._tell(task.source, f"{task.target} is already there, and written over only with force")
            return False
        return True

    def _tell(self, file: Path, words: str) -> None:
        told = self._seen[file].stamp, words
        if self._told.get(file) != told:
            self._told[file] = told
            self.warn(f"{file}: {words}")


def _images(folder: Path) -> dict[Path, Stamp]:
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_image_name(entry.name):
                continue
            try:
                if entry.is_file():
                    about = entry.stat()
                    found[Path(entry.path)] = about.st_size, about.st_mtime_ns
            except FileNotFoundError:
                continue
    return found


def _patience(file: Path) -> float:
    """For how many seconds it must have stayed as it is to be whole. Raises OSError if it cannot be opened."""
    with file.open("rb") as opened:
        # What is still empty was hardly meant to be.
        if sys.platform != "linux" or not os.fstat(opened.fileno()).st_size:
            return UNKNOWN
        try:
            # If somebody comes to write before the lease is given back, a signal is sent: one that is ignored.
            fcntl.fcntl(opened, fcntl.F_SETSIG, signal.SIGURG)
            # Granted if nobody has it open for writing.
            fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            return OPEN
        except OSError:
            return UNKNOWN
    return 0.0
