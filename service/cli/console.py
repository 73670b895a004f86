"""Messages in the terminal, progress, and exit codes."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from engine.storage.locations import Location
from engine.system.file_names import DENOISED

Item = TypeVar("Item")

out = Console()
err = Console(stderr=True)
# Exit code for wrong usage.
WRONG_USAGE = 2
# Exit code of a command that was stopped by a signal.
STOPPED = 130
# Seconds between two lines of progress, where the output is no terminal.
LINE_INTERVAL = 30.0


def error(text: str) -> None:
    """Print on one line why the command failed."""
    line = escape(" ".join(text.split()))
    err.print(f"[red]error:[/red] {line}", soft_wrap=True, highlight=False)


def warn(text: str) -> None:
    """Print a message that is no result."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def warn_results(folder: Location, results: Sequence[Location], hint: str = "") -> None:
    """Tell how many earlier results of `denoise run` in a folder are left out. hint: how to see their names."""
    if results:
        kind = "earlier result" if len(results) == 1 else "earlier results"
        warn(f"{folder}: left out {len(results)} {kind}, NAME{DENOISED}.EXT beside NAME{hint}")


def warn_without_kernels() -> None:
    """For commands that compute. Raises ValueError if DENOISE_KERNELS names kernels that cannot be used."""
    from engine.layers import kernels

    if missing := kernels.warning():
        warn(f"warning: {missing}")


def tracked(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """The items, with progress: a bar in a terminal, a line from time to time elsewhere."""
    if err.is_terminal:
        yield from track(items, title, total, console=err, transient=True)
        return
    next_line = time.monotonic() + LINE_INTERVAL
    for number, item in enumerate(items):
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + LINE_INTERVAL
            warn(f"{title}: {number} of {total}")
        yield item
