"""Errors of the operating system in words: a file's name and the reason, without `[Errno 21]`."""

import errno

# Where the system's own words do not say what is wrong with the path.
_REASONS = {
    errno.EISDIR: "this is a folder, not a file",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    # Of a folder to be made.
    errno.EEXIST: "this exists already, and is not a folder",
}


def reason(error: OSError) -> str:
    """What went wrong, without the file's name."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def describe(error: OSError) -> str:
    """The file's name, if the error has one, and what went wrong."""
    # Errors that the program itself raises have a text and no number.
    if error.errno is None or error.filename is None:
        return reason(error)
    return f"{_text(error.filename)}: {reason(error)}"


def _text(name: object) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
