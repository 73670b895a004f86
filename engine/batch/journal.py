"""Journal of a batch: records which output was made from which file, so that a stopped batch can resume.

It is a file of JSON lines in the output folder. One line is added before an image is processed, and one
afterwards. A kill or a power cut leaves the first line without the second. If the output was written before that,
its size and time differ from those in the first line. A torn line is ignored.

A file may be what ended the process: it crashes a codec, or needs more memory than there is. So attempts are
counted, and a file is given up after two that never finished.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.system.atomic_file import remove_parts

if sys.platform != "win32":
    import fcntl

# In the output folder.
JOURNAL_FILE = Path(".denoise", "journal.jsonl")

# Attempts that end with the process before a file is given up. Jobs of the service have as many.
MAX_ATTEMPTS = 2

# Size in bytes and modification time in ns. A file with the same stamp is taken to be unchanged.
FileStamp = tuple[int, int]


def file_stamp(path: Path) -> FileStamp | None:
    """The stamp of a file, or None if it does not exist. Raises OSError if that cannot be found out."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class JournalEntry:
    """The processing of one source.

    source: absolute path. source_stamp: of the source when processing began.
    target: of the output, relative to the folder, with / between names.
    options: all that the output depends on besides its source.
    previous_stamp: of the output before, if there was one.
    finished: whether processing has ended. output_stamp: of the output then.
    error: what was wrong with the source, if there is no output.
    attempts: how many attempts, one after another, may have ended their process. This one counts until it ends.
    """

    source: str
    source_stamp: FileStamp
    target: str
    options: Mapping[str, Any]
    previous_stamp: FileStamp | None = None
    finished: bool = False
    output_stamp: FileStamp | None = None
    error: str | None = None
    attempts: int = 0


class Journal:
    """The journal of an output folder. Creates the folder if needed.

    options: all that outputs depend on besides their sources; see DenoiseOptions.fingerprint.
    resume: read the earlier entries, and remove files that a kill left half written. This needs the folder for
    itself. Without it, the journal knows only what it records from now on.
    Raises ValueError if another process uses the folder, and OSError.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any], resume: bool = False) -> None:
        self.folder = folder
        self.options = options
        self.path = folder / JOURNAL_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Kept open for its lock, which ends with the process, however the process ends.
        self._file = self.path.open("ab")
        self._lock(exclusive=resume)
        self._finished: dict[str, JournalEntry] = {}
        self._makers: dict[str, JournalEntry] = {}
        # Sources whose processing never finished. They may be what ended the process.
        self.interrupted: set[Path] = set()
        # The last entry of each source that may have ended a process, or that was given up for that.
        self._suspects: dict[str, JournalEntry] = {}
        for entry in self._read() if resume else ():
            remove_parts(folder / entry.target)
            if file_stamp(folder / entry.target) in (None, entry.previous_stamp):
                self.interrupted.add(Path(entry.source))
                self._suspects[entry.source] = entry
            else:
                self.finish(entry)

    def close(self) -> None:
        """Release the folder."""
        self._file.close()

    def begin(self, source: Path, target: Path) -> JournalEntry:
        """Record that processing begins. Call it before reading the source. After an OSError, write no output."""
        source_stamp = file_stamp(source)
        if source_stamp is None:
            raise FileNotFoundError(f"{source}: the file does not exist any more")
        name, attempts = str(source.absolute()), 1 + self._failed_attempts(source, source_stamp)
        previous = file_stamp(target)
        entry = JournalEntry(name, source_stamp, self.name_of(target), self.options, previous, attempts=attempts)
        self._append(entry)
        return entry

    def withdraw(self, entry: JournalEntry) -> None:
        """Record that an attempt ended without a result, and that its source did not end the process."""
        # If this cannot be written, the attempt counts, and the next one still takes place.
        with suppress(OSError):
            self._append(replace(entry, attempts=entry.attempts - 1))

    def is_hopeless(self, source: Path) -> bool:
        """Whether the source, as it is now, has ended the process too often. Raises OSError."""
        return self._failed_attempts(source, file_stamp(source)) >= MAX_ATTEMPTS

    def give_up(self, source: Path, target: Path, error: str) -> None:
        """Record that a hopeless source is not tried again until it changes. error: why. Raises OSError."""
        known = self._suspects[str(source.absolute())]
        entry = replace(known, target=self.name_of(target), finished=True, error=error)
        self._append(entry)
        self._remember(entry)

    def finish(self, entry: JournalEntry, error: str | None = None) -> None:
        """Record that processing has ended. Call it when the output is in place.

        error: why the source has no output. Raises OSError.
        """
        output_stamp = None if error else file_stamp(self.folder / entry.target)
        finished = replace(entry, finished=True, output_stamp=output_stamp, error=error, attempts=0)
        try:
            self._append(finished)
        except FileNotFoundError:
            # The disk was removed, and later outputs went to its empty mount point.
            raise
        except OSError:
            # The disk is full, but it has the output.
            if output_stamp:
                self._remember(finished)
            raise
        self._remember(finished)

    def finished(self, source: Path, stamp: FileStamp) -> JournalEntry | None:
        """The finished entry of a source with that stamp, if there is one."""
        entry = self._finished.get(str(source.absolute()))
        return entry if entry and entry.source_stamp == stamp else None

    def maker(self, target: Path) -> Path | None:
        """The source that an output was last made from."""
        entry = self._makers.get(self.name_of(target))
        return Path(entry.source) if entry else None

    def may_replace(self, source: Path, target: Path) -> bool:
        """Whether writing the target loses nothing: it does not exist, or is this source's unchanged output."""
        now, entry = file_stamp(target), self._makers.get(self.name_of(target))
        if now is None:
            return True
        return entry is not None and (entry.source, entry.output_stamp) == (str(source.absolute()), now)

    def name_of(self, target: Path) -> str:
        """An output's name in the entries: its path relative to the folder."""
        return target.relative_to(self.folder).as_posix()

    def _lock(self, exclusive: bool) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(
                f"{self.folder}: another process is writing to this folder; wait until it has finished"
            ) from error
        except OSError:
            # Some network shares have no locks. There, users must not start two processes at once.
            return

    def _read(self) -> Iterator[JournalEntry]:
        """Remembers the finished entries, and yields the others."""
        begun: dict[str, JournalEntry] = {}
        for line in self.path.read_bytes().splitlines():
            try:
                entry = _from_json(line)
            except (ValueError, TypeError, AttributeError):
                continue
            if entry.finished:
                begun.pop(entry.source, None)
                self._remember(entry)
            else:
                begun[entry.source] = entry
        yield from begun.values()

    def _failed_attempts(self, source: Path, stamp: FileStamp | None) -> int:
        """How many attempts may have ended their process, with the source and the options as they are now."""
        entry = self._suspects.get(str(source.absolute()))
        if entry is None or (entry.source_stamp, entry.options) != (stamp, self.options):
            return 0
        return entry.attempts

    def _remember(self, entry: JournalEntry) -> None:
        self._finished[entry.source] = entry
        self._suspects.pop(entry.source, None)
        if entry.attempts:
            self._suspects[entry.source] = entry
        if entry.output_stamp:
            self._makers[entry.target] = entry

    def _append(self, entry: JournalEntry) -> None:
        # Opened without O_CREAT: a removed disk may leave its empty mount point, which must not get a journal.
        try:
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.path} is missing; was it deleted, or its disk removed?") from error
        with os.fdopen(number, "ab") as file:
            # Begins with a line break, in case a power cut has torn the line before.
            file.write(f"\n{json.dumps(asdict(entry))}".encode())
            file.flush()
            os.fsync(number)


def _from_json(line: bytes) -> JournalEntry:
    """Raises ValueError, TypeError or AttributeError for a line that is not an entry."""
    fields = json.loads(line)
    names = ("source_stamp", "previous_stamp", "output_stamp")
    stamps = {name: tuple(fields[name]) for name in names if fields.get(name)}
    return JournalEntry(**(fields | stamps))
