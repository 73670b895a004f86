"""What was made of which file, kept beside what was made: so that stopped work goes on, and none is done twice.

The journal is a file of JSON lines: one is added before an image's work begins, and one when it has ended. A
kill or a power cut leaves the first without the second. Whether the output had come into place by then, it tells
itself: its size and time are no longer those that the first line gives. Half a line that is left is no entry.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.system.atomic_file import remove_parts

if sys.platform != "win32":
    import fcntl

PLACE = Path(".denoise", "journal.jsonl")

# By which a file is taken to be as it was: its size in bytes, and when it was last written, in ns.
Stamp = tuple[int, int]


def stamp(path: Path) -> Stamp | None:
    """A file's, or None if there is none. Raises OSError if that cannot be told."""
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_size, about.st_mtime_ns


@dataclass(frozen=True)
class Entry:
    """A source's work. came: the source's stamp. target: the output's name. wishes: how it was wanted.

    was: the output's stamp before, if there was one; made: after. error: what was wrong with the source, of work
    that ended without an output.
    """

    source: str
    came: Stamp
    target: str
    wishes: Mapping[str, Any]
    was: Stamp | None = None
    ended: bool = False
    made: Stamp | None = None
    error: str | None = None


class Journal:
    """The journal of a folder of outputs, which is made if need be. wishes: how they are wanted now.

    alone: to go on from what was written. Nobody else may then be at work on the folder, and what a kill left
    half-written there is removed; without it, nothing is known but what is begun and ended from now on. Raises
    ValueError if somebody is at work, and OSError.
    """

    def __init__(self, folder: Path, wishes: Mapping[str, Any], alone: bool = False) -> None:
        self.folder, self.wishes, self.path = folder, wishes, folder / PLACE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Kept open for its lock, which ends with the process, however that ends.
        self._file = self.path.open("ab")
        self._lock(alone)
        self._ended: dict[str, Entry] = {}
        self._made: dict[str, Entry] = {}
        # Sources whose work never ended: it may have been what ended the process.
        self.interrupted: set[Path] = set()
        for entry in self._begun() if alone else ():
            remove_parts(folder / entry.target)
            if stamp(folder / entry.target) in (None, entry.was):
                self.interrupted.add(Path(entry.source))
            else:
                self.end(entry)

    def close(self) -> None:
        """Let others at the folder."""
        self._file.close()

    def begin(self, source: Path, target: Path) -> Entry:
        """To be called before the source is read. Raises OSError, and then nothing may be written."""
        came = stamp(source)
        if came is None:
            raise FileNotFoundError(f"{source}: no longer there")
        entry = Entry(str(source.absolute()), came, target.name, self.wishes, stamp(target))
        self._write(entry)
        return entry

    def end(self, entry: Entry, error: str | None = None) -> None:
        """To be called when the output is in place. error: why none can be made of the source as it is."""
        made = None if error else stamp(self.folder / entry.target)
        ended = replace(entry, ended=True, made=made, error=error)
        try:
            self._write(ended)
        except FileNotFoundError:
            # The disk is gone, and what was written since lies elsewhere.
            raise
        except OSError:
            # It is full, and yet has the output.
            if made:
                self._note(ended)
            raise
        self._note(ended)

    def ended(self, source: Path, came: Stamp) -> Entry | None:
        """The work that ended on the source as it is, if any did."""
        entry = self._ended.get(str(source.absolute()))
        return entry if entry and entry.came == came else None

    def maker(self, target: Path) -> Path | None:
        """The source that an output was last made of here."""
        entry = self._made.get(target.name)
        return Path(entry.source) if entry else None

    def may_replace(self, source: Path, target: Path) -> bool:
        """Whether nothing is lost: no output is there, or that of this source, as it was made."""
        now, entry = stamp(target), self._made.get(target.name)
        return now is None or (entry is not None and (entry.source, entry.made) == (str(source.absolute()), now))

    def _lock(self, alone: bool) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(
                f"{self.folder}: another denoise is at work on this folder; wait for its end"
            ) from error
        except OSError:
            # Some shares on a network have no locks: there, it is up to who starts two at once.
            return

    def _begun(self) -> Iterator[Entry]:
        """Reads what is there: notes all work that has ended, and gives what has not."""
        begun: dict[str, Entry] = {}
        for line in self.path.read_bytes().splitlines():
            try:
                entry = _from_json(line)
            except (ValueError, TypeError, AttributeError):
                continue
            if entry.ended:
                begun.pop(entry.source, None)
                self._note(entry)
            else:
                begun[entry.source] = entry
        yield from begun.values()

    def _note(self, entry: Entry) -> None:
        self._ended[entry.source] = entry
        if entry.made:
            self._made[entry.target] = entry

    def _write(self, entry: Entry) -> None:
        # Never made anew: where a disk is gone, its empty place may still be there, and is not to be filled.
        try:
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.path} is gone, or the disk that it is on") from error
        with os.fdopen(number, "ab") as file:
            # Begins a line, whatever a power cut has left of the one before.
            file.write(f"\n{json.dumps(asdict(entry))}".encode())
            file.flush()
            os.fsync(number)


def _from_json(line: bytes) -> Entry:
    """Raises ValueError, TypeError or AttributeError for what is no entry."""
    fields = json.loads(line)
    stamps = {name: tuple(fields[name]) for name in ("came", "was", "made") if fields.get(name)}
    return Entry(**(fields | stamps))
