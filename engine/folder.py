"""Many picture files at once: which file becomes which, and the work itself. `-` is a pipe."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import images
from engine.files import write_atomically
from engine.layers import Layer
from engine.picture import MEMORY_BUDGET, denoise

# Standard input as a source, standard output as a target.
PIPE = Path("-")
SUFFIX = ".png"


@dataclass(frozen=True)
class Task:
    """A picture file, and the file its denoised picture goes to."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """A task that is over. error: what went wrong, if anything did."""

    task: Task
    error: str | None = None


def plan(inputs: Sequence[Path], out: Path, force: bool = False) -> list[Task]:
    """What there is to do: inputs are picture files and folders of them, which are not searched deeper.

    `out` is a folder, made if need be, in which pictures keep their names with the suffix .png. For one input
    file it may be a file's name instead, which its suffix tells, or a pipe. force: write over what is there.
    Raises ValueError, before any work, naming an input that is not there, inputs that would have one output,
    and outputs that exist.
    """
    one_file = out == PIPE or (out.suffix and not out.is_dir())
    tasks = _to_file(inputs, out) if one_file else _to_folder(inputs, out)
    _refuse_clashes(tasks)
    if not force and (there := [str(task.target) for task in tasks if task.target.exists()]):
        raise ValueError(f"already there, and written over only with force: {_some(there)}")
    return tasks


def denoise_files(
    net: Layer, tasks: Iterable[Task], memory_budget: int = MEMORY_BUDGET, png_level: int = images.PNG_LEVEL
) -> Iterator[Outcome]:
    """Do the tasks in turn. A file that cannot be read, denoised or written is told of, and the rest go on."""
    for task in tasks:
        try:
            _write(task.target, denoise_bytes(net, _read(task.source), memory_budget, png_level))
        except (ValueError, OSError, MemoryError) as error:
            yield Outcome(task, str(error) or type(error).__name__)
        else:
            yield Outcome(task)


def denoise_bytes(
    net: Layer, data: bytes, memory_budget: int = MEMORY_BUDGET, png_level: int = images.PNG_LEVEL
) -> bytes:
    """A picture file's bytes -> the denoised picture's, as PNG. Raises ValueError if it is no picture."""
    clean = denoise(net, images.decode(data), memory_budget)
    return images.encode_png(clean, png_level)


def _read(source: Path) -> bytes:
    return sys.stdin.buffer.read() if source == PIPE else source.read_bytes()


def _write(target: Path, data: bytes) -> None:
    if target == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(target, data)


def _to_file(inputs: Sequence[Path], out: Path) -> list[Task]:
    if len(inputs) != 1 or inputs[0].is_dir():
        raise ValueError(f"{out} takes one picture, and here may be several; give a folder")
    if out != PIPE and out.suffix.lower() != SUFFIX:
        raise ValueError(f"pictures are written as PNG; got {out}, which does not end in {SUFFIX}")
    return [Task(source, out) for source in _files(inputs)]


def _to_folder(inputs: Sequence[Path], out: Path) -> list[Task]:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder, or a name that ends in {SUFFIX}")
    if PIPE in inputs:
        raise ValueError(f"a picture from a pipe has no name; give it one that ends in {SUFFIX}")
    return [Task(source, out / f"{source.stem}{SUFFIX}") for source in _files(inputs)]


def _files(inputs: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            files += images.picture_files(path)
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
