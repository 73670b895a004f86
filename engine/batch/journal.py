"""Journal of a batch: records which output was made from which file, so that a stopped batch can resume.

It consists of JSON lines in the output folder. One line is added before an image is processed, and one
afterwards. A kill or a power cut leaves the first line without the second. If the output was written before that,
its stamp differs from that in the first line. A torn line is ignored.

A file may be what ended the process: it crashes a codec, or needs more memory than there is. So attempts are
counted, and a file is given up after two that never finished.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.batch.journal_log import open_log
from engine.storage.bucket import FileStamp
from engine.storage.locations import Location, ObjectPath, file_stamp, location
from engine.system.atomic_file import remove_parts

# Attempts that end with the process before a file is given up. Jobs of the service have as many.
MAX_ATTEMPTS = 2


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

    def __init__(self, folder: Location, options: Mapping[str, Any], resume: bool = False) -> None:
        self.folder = folder
        self.options = options
        if isinstance(folder, ObjectPath):
            # One listing tells the stamps of all outputs.
            folder.bucket.listed(folder.prefix)
        self.log = open_log(folder, exclusive=resume)
        self._finished: dict[str, JournalEntry] = {}
        self._makers: dict[str, JournalEntry] = {}
        # Sources whose processing never finished. They may be what ended the process.
        self.interrupted: set[Location] = set()
        # The last entry of each source that may have ended a process, or that was given up for that.
        self._suspects: dict[str, JournalEntry] = {}
        for entry in self._read() if resume else ():
            target = folder / entry.target
            if isinstance(target, Path):
                remove_parts(target)
            if file_stamp(target) in (None, entry.previous_stamp):
                self.interrupted.add(location(entry.source))
                self._suspects[entry.source] = entry
            else:
                self.finish(entry)

    def close(self) -> None:
        """Release the folder."""
        self.log.close()

    def begin(self, source: Location, target: Location) -> JournalEntry:
        """Record that processing begins. Call it before reading the source. After an OSError, write no output."""
        entry = self.entry_for(source, target)
        entry = replace(entry, attempts=entry.attempts + 1)
        self.record([entry])
        return entry

    def entry_for(self, source: Location, target: Location) -> JournalEntry:
        """The entry with which processing begins, before it is recorded. Raises OSError.

        It counts the attempts before this one. `begin` counts this one too, since it may end this process.
        """
        source_stamp = file_stamp(source)
        if source_stamp is None:
            raise FileNotFoundError(f"{source}: the file does not exist any more")
        name, attempts = str(source.absolute()), self._failed_attempts(source, source_stamp)
        previous = file_stamp(target)
        return JournalEntry(name, source_stamp, self.name_of(target), self.options, previous, attempts=attempts)

    def record(self, entries: Sequence[JournalEntry]) -> None:
        """Record that the processing of these begins. Raises OSError."""
        self._append(*entries)

    def note_suspect(self, entry: JournalEntry) -> None:
        """Record that an attempt ended its process. The entry counts it. Raises OSError."""
        self._append(entry)
        self._suspects[entry.source] = entry

    def withdraw(self, entry: JournalEntry) -> None:
        """Record that an attempt ended without a result, and that its source did not end the process."""
        # If this cannot be written, the attempt counts, and the next one still takes place.
        with suppress(OSError):
            self._append(replace(entry, attempts=entry.attempts - 1))

    def is_hopeless(self, source: Location) -> bool:
        """Whether the source, as it is now, has ended the process too often. Raises OSError."""
        return self._failed_attempts(source, file_stamp(source)) >= MAX_ATTEMPTS

    def give_up(self, source: Location, target: Location, error: str) -> None:
        """Record that a hopeless source is not tried again until it changes. error: why. Raises OSError."""
        known = self._suspects[str(source.absolute())]
        self.give_up_entry(replace(known, target=self.name_of(target)), error)

    def give_up_entry(self, entry: JournalEntry, error: str) -> None:
        """As `give_up`, for an entry that counts the attempts. Raises OSError."""
        given_up = replace(entry, finished=True, error=error)
        self._append(given_up)
        self._remember(given_up)

    def finish(
        self, entry: JournalEntry, error: str | None = None, output_stamp: FileStamp | None = None
    ) -> None:
        """Record that processing has ended. Call it when the output is in place.

        error: why the source has no output. output_stamp: of the output, if another process made it and knows.
        Raises OSError.
        """
        if not error and not output_stamp:
            output_stamp = file_stamp(self.folder / entry.target)
        finished = replace(entry, finished=True, output_stamp=output_stamp, error=error, attempts=0)
        try:
            self._append(finished, can_wait=True)
        except FileNotFoundError:
            # The disk was removed, and later outputs went to its empty mount point.
            raise
        except OSError:
            # The disk is full, but it has the output.
            if output_stamp:
                self._remember(finished)
            raise
        self._remember(finished)

    def finished(self, source: Location, stamp: FileStamp) -> JournalEntry | None:
        """The finished entry of a source with that stamp, if there is one."""
        entry = self._finished.get(str(source.absolute()))
        return entry if entry and entry.source_stamp == stamp else None

    def maker(self, target: Location) -> Location | None:
        """The source that an output was last made from."""
        entry = self._makers.get(self.name_of(target))
        return location(entry.source) if entry else None

    def may_replace(self, source: Location, target: Location) -> bool:
        """Whether writing the target loses nothing: it does not exist, or is this source's unchanged output."""
        now, entry = file_stamp(target), self._makers.get(self.name_of(target))
        if now is None:
            return True
        return entry is not None and (entry.source, entry.output_stamp) == (str(source.absolute()), now)

    def name_of(self, target: Location) -> str:
        """An output's name in the entries: its path relative to the folder."""
        if isinstance(target, ObjectPath):
            assert isinstance(self.folder, ObjectPath)
            return target.relative_to(self.folder).as_posix()
        assert isinstance(self.folder, Path)
        return target.relative_to(self.folder).as_posix()

    def _read(self) -> Iterator[JournalEntry]:
        """Remembers the finished entries, and yields the others."""
        begun: dict[str, JournalEntry] = {}
        # Nearly all entries have the same options, which are kept once.
        known: dict[str, Mapping[str, Any]] = {}
        for line in self.log.lines():
            try:
                entry = _from_json(line)
                options = known.setdefault(json.dumps(entry.options), entry.options)
                entry = replace(entry, options=options)
            except (ValueError, TypeError, AttributeError):
                continue
            if entry.finished:
                begun.pop(entry.source, None)
                self._remember(entry)
            else:
                begun[entry.source] = entry
        yield from begun.values()

    def _failed_attempts(self, source: Location, stamp: FileStamp | None) -> int:
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

    def _append(self, *entries: JournalEntry, can_wait: bool = False) -> None:
        self.log.append([json.dumps(asdict(entry)).encode() for entry in entries], can_wait)


def _from_json(line: bytes) -> JournalEntry:
    """Raises ValueError, TypeError or AttributeError for a line that is not an entry."""
    fields = json.loads(line)
    names = ("source_stamp", "previous_stamp", "output_stamp")
    stamps = {name: tuple(fields[name]) for name in names if fields.get(name)}
    return JournalEntry(**(fields | stamps))
