"""How a process that computes treats the rest of the machine."""

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

# Added to the nice value of what computes: whoever answers, or whatever else the machine does, then gets the
# processor when it wants it.
NICER = 10
# mallopt(3).
_M_MMAP_THRESHOLD, _LARGE = -3, 2**20


def lower_priority() -> None:
    """Of this thread and those it starts, as torch's helpers; where threads have one each, which is on Linux."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICER))


def use_cores(count: int) -> None:
    """Let torch keep so many cores busy with what this thread computes.

    OpenMP keeps the number for each thread, torch one more for threads to come: reading it takes that one over,
    setting it sets both. Not read before, it would be taken over at the thread's first product, from whichever
    thread had set it last.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)


def in_own_thread(work: Callable[[], T]) -> T:
    """Do what takes several cores in a thread that ends with it, and with it the helpers that torch gave it.

    OpenMP counts helpers for each thread that ever had some. Where all together are more than cores, they go to
    sleep after each product, instead of waiting for the next a moment: an image then took 1.6 times as long. So
    a process that lives on after it has computed leaves no helpers behind but where it computes all the time.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def give_back() -> None:
    """Have the C library give blocks of a megabyte and more back to the system as soon as they are free.

    glibc, once it has seen large blocks freed, keeps all that are smaller than 32 MiB, for each thread apart.
    Other libraries have no such habit, and no mallopt.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
