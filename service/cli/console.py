"""What commands say in a terminal, and how they end."""

from rich.console import Console
from rich.markup import escape

out = Console()
err = Console(stderr=True)
# The exit code of what was stopped by a signal.
STOPPED = 130


def error(text: str) -> None:
    """What ends the command, in a line."""
    told = escape(" ".join(text.split()))
    err.print(f"[red]error:[/red] {told}", soft_wrap=True, highlight=False)


def warn(text: str) -> None:
    """Whatever else is not what was asked for."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def warn_without_kernels() -> None:
    """For commands that compute. Raises ValueError if DENOISE_KERNELS asks for kernels that cannot be used."""
    from engine.layers import kernels

    if missing := kernels.warning():
        warn(f"warning: {missing}")
