"""Messages in the terminal, and exit codes."""

from rich.console import Console
from rich.markup import escape

out = Console()
err = Console(stderr=True)
# Exit code of a command that was stopped by a signal.
STOPPED = 130


def error(text: str) -> None:
    """Print on one line why the command failed."""
    line = escape(" ".join(text.split()))
    err.print(f"[red]error:[/red] {line}", soft_wrap=True, highlight=False)


def warn(text: str) -> None:
    """Print a message that is no result."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def warn_without_kernels() -> None:
    """For commands that compute. Raises ValueError if DENOISE_KERNELS names kernels that cannot be used."""
    from engine.layers import kernels

    if missing := kernels.warning():
        warn(f"warning: {missing}")
