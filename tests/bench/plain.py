"""The plain path: the definition in torch, as it runs where no kernels could be built."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from unittest.mock import patch

from engine.layers import kernels

T = TypeVar("T")


@contextmanager
def plain_path() -> Iterator[None]:
    """No layer uses a kernel meanwhile."""
    with patch.object(kernels, "chosen", lambda: None):
        yield


def plainly(work: Callable[[], T]) -> Callable[[], T]:
    """The same work by the plain path."""

    def done() -> T:
        with plain_path():
            return work()

    return done
