"""How a process that computes treats the rest of the machine."""

import ctypes
import os
import sys
import threading

# Added to the nice value of what computes: whoever answers, or whatever else the machine does, then gets the
# processor when it wants it.
NICER = 10
# mallopt(3).
_M_MMAP_THRESHOLD = -3
LARGE = 2**20


def lower_priority() -> None:
    """Of this thread and those it starts, as torch's helpers; where threads have one each, which is on Linux."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICER))


def give_back() -> None:
    """Have the C library give blocks of a megabyte and more back to the system as soon as they are free.

    glibc, once it has seen large blocks freed, keeps all that are smaller than 32 MiB, for each thread apart: 16
    pictures of 1.1 megapixels sent at once then took 180 MB instead of 90. Other libraries have no such habit,
    and no mallopt.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, LARGE)
