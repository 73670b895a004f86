"""Signals that stop long work in an orderly way."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# File descriptor of standard error.
STDERR = 2


@contextmanager
def stop_signals(message: str = "") -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set. A second signal acts as it would without this.

    message: for the person at the terminal, as soon as the signal comes.
    """
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may handle signals. Work in other threads needs another way to stop.
        yield stopping
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        signal.signal(number, before[signal.Signals(number)])
        if message:
            # In a signal handler, print could find its buffer in use.
            os.write(STDERR, f"\n{message}\n".encode())

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupt_signals() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as SIGINT does, so that unfinished files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
