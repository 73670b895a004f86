"""Many image files at once: which file becomes which, and the work itself. `-` is a pipe."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.batch.journal import Journal, stamp
from engine.imageio.formats import FORMATS, SAME, SUPPORTED_OUTPUTS, WRITABLE_FORMATS, output_format, suffix_of
from engine.imageio.image import EncodedImage
from engine.imageio.read import image_files, read
from engine.imageio.write import PNG_LEVEL, encode
from engine.inference import model_selection
from engine.inference.denoise import MEMORY_BUDGET, WHOLE, Finish, denoise
from engine.inference.model_selection import Choose
from engine.inference.noise_estimation.estimator import NoiseEstimate
from engine.system.atomic_file import write_atomically

# Standard input as a source, standard output as a target.
PIPE = Path("-")
PNG = "png"


@dataclass(frozen=True)
class Task:
    """An image file, the file its denoised image goes to, and as which format."""

    source: Path
    target: Path
    format: str = PNG


@dataclass(frozen=True)
class Outcome:
    """A task that is over. error: what went wrong, if anything did. changed: what the new file does not hold."""

    task: Task
    error: str | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class DenoiseOptions:
    """How images are wanted back. page: that one alone, counted from 1. The rest is as in images.encode."""

    quality: int | None = None
    page: int | None = None
    png_level: int = PNG_LEVEL
    finish: Finish = WHOLE
    memory_budget: int = MEMORY_BUDGET

    def fingerprint(self, digest: str) -> dict[str, Any]:
        """For a journal: all that an output depends on beside its source. digest: of the weights."""
        about = asdict(self)
        del about["memory_budget"]
        return {"digest": digest, **about}


class Changed(OSError):
    """A source that was written to while it was in work."""


def plan(inputs: Sequence[Path], out: Path, force: bool = False, format_: str | None = None) -> list[Task]:
    """What there is to do: inputs are image files and folders of them, which are not searched deeper.

    `out` is a folder, made if need be, in which images keep their names with the format's suffix. For one input
    file it may be a file's name instead, which its suffix tells, or a pipe. force: write over what is there.
    format_: one of WRITABLE_FORMATS, or SAME; without one a file's suffix says it, and else it is PNG. Raises
    ValueError, before any work, naming an input that is not there, inputs that would have one output, and outputs
    that exist.
    """
    tasks = _to_folder(inputs, out, format_ or PNG) if is_folder(out) else _to_file(inputs, out, format_)
    _refuse_clashes(tasks)
    if not force and (there := [str(task.target) for task in tasks if task.target.exists()]):
        raise ValueError(f"already there, and written over only with force: {_some(there)}")
    return tasks


def is_folder(out: Path) -> bool:
    """Whether outputs go into it, and not to it."""
    return out != PIPE and (not out.suffix or out.is_dir())


def remaining(tasks: Iterable[Task], journal: Journal, force: bool = False) -> list[Task]:
    """Those not done, or not as they are wanted now: with a source or wishes that have changed since.

    force: write over what is there. Raises ValueError naming outputs that would be written over and are not those
    that the journal tells of.
    """
    left = [task for task in tasks if not _is_done(task, journal)]
    unknown = [str(task.target) for task in left if not journal.may_replace(task.source, task.target)]
    if unknown and not force:
        raise ValueError(f"already there, not as made here, and written over only with force: {_some(unknown)}")
    return left


def _is_done(task: Task, journal: Journal) -> bool:
    came = stamp(task.source)
    entry = journal.ended(task.source, came) if came else None
    if not entry or entry.error:
        return False
    return (entry.target, entry.wishes) == (task.target.name, journal.wishes) and task.target.exists()


def denoise_files(
    choose: Choose, tasks: Iterable[Task], order: DenoiseOptions | None = None, journal: Journal | None = None
) -> Iterator[Outcome]:
    """Do the tasks in turn. A file that cannot be read, denoised or written is told of, and the rest go on."""
    for task in tasks:
        try:
            yield denoise_file(choose, task, order, journal)
        except OSError as error:
            yield Outcome(task, str(error))


def denoise_file(
    choose: Choose, task: Task, order: DenoiseOptions | None = None, journal: Journal | None = None
) -> Outcome:
    """Do one task. Raises OSError if a file cannot be read or written, and Changed: it may be tried again."""
    entry = journal.begin(task.source, task.target) if journal else None
    written, fault = None, None
    try:
        written = denoise_bytes(choose, _read(task.source), task.format, order)
    except (ValueError, MemoryError) as error:
        fault = str(error) or type(error).__name__
    if entry and stamp(task.source) not in (None, entry.came):
        raise Changed(f"{task.source}: was written to while it was in work")
    if written:
        _write(task.target, written.data)
    if journal and entry:
        journal.end(entry, fault)
    return Outcome(task, fault, written.changed if written else ())


def denoise_bytes(
    choose: Choose, data: bytes, format_: str = PNG, order: DenoiseOptions | None = None
) -> EncodedImage:
    """An image file's bytes -> the denoised one's, by the network chosen for its first page.

    Raises ValueError if it cannot be read or written.
    """
    order = order or DenoiseOptions()
    file = read(data, page=order.page)
    kind = output_format(format_, file.kind)
    pages = list(file.pages)
    # A second name for each large thing would keep it until the end.
    file = replace(file, pages=())
    net = choose(pages[0].samples)
    for number in range(len(pages)):
        pages[number] = denoise(net, pages[number], order.memory_budget, finish=order.finish)
    return encode(replace(file, pages=tuple(pages)), kind, order.quality, order.png_level)


def estimate_file(source: Path, page: int = 1) -> tuple[str, NoiseEstimate]:
    """The name of the weights for an image file's noise, and what was found. Raises ValueError, OSError."""
    return model_selection.choose(read(_read(source), page=page).pages[0].samples)


def _read(source: Path) -> bytes:
    return sys.stdin.buffer.read() if source == PIPE else source.read_bytes()


def _write(target: Path, data: bytes) -> None:
    if target == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(target, data)


def _to_file(inputs: Sequence[Path], out: Path, format_: str | None) -> list[Task]:
    if len(inputs) != 1 or inputs[0].is_dir():
        raise ValueError(f"{out} takes one image, and here may be several; give a folder")
    if out == PIPE:
        return [Task(source, out, format_ or PNG) for source in files_of(inputs)]
    told = [name for name in WRITABLE_FORMATS if out.suffix.lower() in FORMATS[name].suffixes]
    if not told and format_ != SAME:
        raise ValueError(f"{out} ends in no suffix of a format that is written. {SUPPORTED_OUTPUTS}")
    if format_ and format_ not in (SAME, *told):
        raise ValueError(f"{out} does not end in {suffix_of(FORMATS[format_])}, as an image of that format does")
    return [Task(source, out, format_ or told[0]) for source in files_of(inputs)]


def _to_folder(inputs: Sequence[Path], out: Path, format_: str) -> list[Task]:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder, or a name that ends in an image's suffix")
    if PIPE in inputs:
        raise ValueError("an image from a pipe has no name; give it one that ends in .png or another suffix")
    return [into(out, source, format_) for source in files_of(inputs)]


def into(out: Path, source: Path, format_: str = PNG) -> Task:
    """What there is to do for an image whose output goes into a folder."""
    suffix = source.suffix if format_ == SAME else suffix_of(FORMATS[format_])
    return Task(source, out / f"{source.stem}{suffix}", format_)


def files_of(inputs: Sequence[Path]) -> list[Path]:
    """Image files and folders of them -> the files. Raises ValueError naming an input that is not there."""
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            files += image_files(path)
        elif path == PIPE or path.is_file():
            files.append(path)
        else:
            raise ValueError(f"{path}: no such file or folder")
    return files


def _refuse_clashes(tasks: Sequence[Task]) -> None:
    # Names that differ in case alone are one file on some systems.
    sources = defaultdict[str, list[str]](list)
    for task in tasks:
        sources[str(task.target).casefold()].append(str(task.source))
    if clash := next((names for names in sources.values() if len(names) > 1), None):
        raise ValueError(f"these would all be written to one file: {_some(clash)}")


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
