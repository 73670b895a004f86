"""Processes as Linux's /proc shows them."""

import os
import select
from contextlib import contextmanager
from pathlib import Path


def children(pid):
    """Of a process whose first thread has started all of them."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def watch(pid):
    """To be polled for the end of a process."""
    poll = select.poll()
    with os.fdopen(os.pidfd_open(pid)) as process:
        poll.register(process)
        yield poll
