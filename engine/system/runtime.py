"""Threads, priority and memory of a process that computes."""

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

# Added to the nice value of threads that compute: threads that answer requests, and other programs, go first.
NICE_INCREMENT = 10
# The highest nice value of Linux.
MAX_NICE = 19
# Parameter of mallopt; see mallopt(3).
_M_MMAP_THRESHOLD = -3
# Blocks of this size in bytes, and larger ones, are returned to the system when they are freed.
_RETURNED_BLOCK = 2**20


def lower_priority() -> None:
    """Lower the priority of this thread and of those that it starts, such as torch's helpers. Linux only."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(MAX_NICE, nice + NICE_INCREMENT))


def use_cores(count: int) -> None:
    """Set the number of cores on which torch computes for this thread.

    OpenMP keeps a number for each thread, and torch another one for new threads. Reading the number copies
    torch's to the thread; setting it sets both. Without the read, the thread's first product would copy the
    number that any thread set last.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)


def in_own_thread(work: Callable[[], T]) -> T:
    """Run work on several cores in a new thread, which ends with the work, and torch's helpers with it.

    OpenMP has helpers for each thread that ever needed some. If there are more helpers than cores, they sleep
    after each product instead of waiting a moment for the next: an image then took 1.6 times as long. So a
    process that goes on afterwards must keep helpers only for the thread that computes all the time.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def return_freed_memory() -> None:
    """Have the C library return blocks of a megabyte and more to the system as soon as they are freed.

    Once glibc has seen large blocks freed, it keeps all blocks below 32 MiB, for each thread separately. Other C
    libraries do not, and have no mallopt.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _RETURNED_BLOCK)
