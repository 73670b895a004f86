"""The HTTP service and the command line."""

from importlib import metadata

import engine as engine  # Before torch: it sets how long torch's threads spin.


def version() -> str:
    """The installed version."""
    try:
        return metadata.version("denoise")
    except metadata.PackageNotFoundError:
        return "not installed"
