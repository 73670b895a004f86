"""The plain path: layers in torch alone, as on machines without compiled kernels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from unittest.mock import patch

from engine.layers import kernels

T = TypeVar("T")


@contextmanager
def plain_path() -> Iterator[None]:
    """Inside, no layer uses a kernel."""
    with patch.object(kernels, "chosen", lambda: None):
        yield


def plainly(work: Callable[[], T]) -> Callable[[], T]:
    """The same work on the plain path."""

    def done() -> T:
        with plain_path():
            return work()

    return done
