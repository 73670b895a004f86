"""Weights folder: the files that a service reads its weights from."""

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple

from engine.inference.model_selection import AUTO_MODELS, models_of
from engine.inference.sanity import check_network
from engine.models import checkpoint
from engine.models.checkpoint import SUFFIX, WeightsError, WeightsFile
from engine.system.atomic_file import sync_folder
from engine.system.os_errors import reason
from engine.system.runtime import in_own_thread
from service.problems import ProblemError

# The names that weights may have that are sent to a service. A leading dot would hide the file.
NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,49}$"


class WeightsNotStored(ProblemError):
    """A weights folder that cannot be written to."""

    status = 507


class FileVersion(NamedTuple):
    """Changes whenever a file changes. It includes ctime: a new owner or mode may make a file readable."""

    inode: int
    size: int
    modified: int
    changed: int


class WeightsFolder:
    """The `*.safetensors` files of a folder. Their names without the suffix are those of the models."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """The file of a model."""
        return self._folder / f"{name}{SUFFIX}"

    def scan(self) -> dict[str, FileVersion]:
        """The files of the folder, by name, without hidden ones: those are renamed once they are complete."""
        paths = sorted(path for path in self._folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
        versions = ((path.stem, _version(path)) for path in paths)
        return {name: version for name, version in versions if version}

    def read(self, name: str, version: FileVersion) -> WeightsFile:
        """The weights of a file, as it was scanned. Raises WeightsError."""
        if name in AUTO_MODELS or not name.isprintable():
            raise WeightsError("weights cannot have this name")
        file = in_own_thread(partial(checkpoint.read, self.path(name)))
        # If it was overwritten in place meanwhile, the model may be a mixture of two versions.
        if _version(self.path(name)) != version:
            raise WeightsError("the file changed while it was read")
        return file

    def store(self, name: str, file: BinaryIO) -> None:
        """Put a file into the folder, in place of the one of that name, if the weights in it can be used.

        file: from its start. Raises ProblemError.
        """
        try:
            # Hidden until it is renamed.
            with checked_copy(name, file, self._folder) as path:
                path.replace(self.path(name))
            sync_folder(self._folder)
        except OSError as error:
            raise WeightsNotStored(
                f"The service cannot write to its weights folder: {reason(error)}. Let it write there, or copy "
                f"the file there and ask for POST /models/{name}/activate."
            ) from error

    def refuse_missing(self, names: Collection[str], default: str) -> None:
        """Raises WeightsError if the weights of the default model are not among these names."""
        if missing := [name for name in models_of(default) if name not in names]:
            available = ", ".join(names) or "no weights at all"
            path = self.path(missing[0])
            raise WeightsError(f"{path}: the default model needs this file, but the folder has {available}")


@contextmanager
def checked_copy(name: str, file: BinaryIO, parent: Path | None = None) -> Iterator[Path]:
    """A copy of a weights file under that name, until the block ends, in a hidden folder of its own.

    file: from its start. parent: where that folder is made; None for the system's place for temporary files.
    Raises ProblemError if the weights cannot be used, and OSError.
    """
    if name in AUTO_MODELS or not re.fullmatch(NAME_PATTERN, name):
        raise ProblemError(f"Weights cannot have the name {name[:100]!r}.", 422, kind="WeightsRefused")
    file.seek(0)
    with TemporaryDirectory(dir=parent, prefix=".") as folder:
        path = Path(folder) / f"{name}{SUFFIX}"
        with path.open("xb") as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            os.fsync(copy.fileno())
        _refuse_unusable(path)
        yield path


def _refuse_unusable(path: Path) -> None:
    """Raises ProblemError for weights that cannot be used."""
    try:
        in_own_thread(partial(_check, path))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise ProblemError(
            f"{printable(path.stem)}: {reason_of(error, path)}.", 422, kind="WeightsRefused"
        ) from error


def _check(path: Path) -> None:
    check_network(checkpoint.load(path).net)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(name: str) -> str:
    """The file's name, escaped if it has characters that cannot be printed."""
    file = f"{name}{SUFFIX}"
    return file if file.isprintable() else repr(file)


def reason_of(error: Exception, path: Path) -> str:
    """Why a file cannot be served. Clients see it, so it does not show the path of the file's folder."""
    text = str(error) or type(error).__name__
    return text.removeprefix(f"{path}: ").replace(str(path), printable(path.stem))


def _version(path: Path) -> FileVersion | None:
    """None if it is not a regular file, or no longer there."""
    try:
        state = path.stat()
    except OSError:
        return None
    regular = S_ISREG(state.st_mode)
    return FileVersion(state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns) if regular else None
