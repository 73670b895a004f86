"""How the C library treats memory that is free."""

import ctypes

# mallopt(3).
_M_MMAP_THRESHOLD = -3
LARGE = 2**20


def give_back() -> None:
    """Have the C library give blocks of a megabyte and more back to the system as soon as they are free.

    glibc, once it has seen large blocks freed, keeps all that are smaller than 32 MiB, for each thread apart: 16
    pictures of 1.1 megapixels sent at once then took 180 MB instead of 90. Other libraries have no such habit,
    and no mallopt.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, LARGE)
