"""API keys: creates, hashes, reads and revokes them.

A key has 256 random bits, so nobody can guess one from its hash and SHA-256 is enough. A slow hash, as for
passwords, would slow down every request without adding security.
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from engine.system.atomic_file import make_folder, write_atomically

# Secret scanners find leaked keys by this prefix, in a repository or a mail.
PREFIX = "denoise_"
RANDOM_BYTES = 32
# Minimum length of a key that somebody else made, in characters. A shorter one may not be random enough.
MIN_LENGTH = 32
# How long a change waits for another process that changes the same file.
LOCK_SECONDS = 10
ENTRY = re.compile(rf"([^:]*):([!-~]{{{MIN_LENGTH},}})")


class ApiKey(BaseModel):
    """An API key, by its hash. Jobs belong to the key's name, so a new key of the same name still has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    created: AwareDatetime | None = None
    admin: bool = False
    rate: int | None = Field(default=None, ge=1, description="Requests a minute. Default: the service's limit.")
    pixels: int | None = Field(default=None, ge=1, description="Pixels an hour. Default: the service's limit.")


def digest(secret: str) -> str:
    """The SHA-256 that is stored in place of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read a file with one key a line, each a JSON object.

    Raises OSError if the file cannot be read.
    Raises ValueError if other users may write to the file, or if a line is invalid, with the number of the line.
    """
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        # Reading is harmless: a hash does not give the key away.
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(f"{path}: its mode is {mode:o}, so other users could add keys; make it 600")
        lines = file.read().splitlines()
    keys = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                keys.append(ApiKey.model_validate_json(line))
        except ValidationError as error:
            raise ValueError(f"{path}: line {number}: {_describe(error)}") from None
    _refuse_duplicates(keys, str(path))
    return tuple(keys)


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Read keys from `name:key,name:key`. Raises ValueError with the position of an invalid key, not its text."""
    keys = []
    for number, entry in enumerate(text.split(","), 1):
        parts = ENTRY.fullmatch(entry.strip())
        if not parts:
            raise ValueError(
                f"number {number} is not NAME:KEY with a key of at least {MIN_LENGTH} ASCII characters"
            )
        try:
            keys.append(ApiKey(name=parts[1], sha256=digest(parts[2])))
        except ValidationError as error:
            raise ValueError(f"number {number}: {_describe(error)}") from None
    _refuse_duplicates(keys, "the list")
    return tuple(keys)


def add_key(
    path: Path, name: str, admin: bool = False, rate: int | None = None, pixels: int | None = None
) -> str:
    """Add a key to the file, which is created if necessary. Returns the key itself, which is stored nowhere.

    Raises ValueError if the file has a key of that name.
    """
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        key = ApiKey(name=name, sha256=digest(secret), created=now, admin=admin, rate=rate, pixels=pixels)
    except ValidationError as error:
        raise ValueError(_describe(error)) from None
    make_folder(path.parent)
    with _locked(path):
        keys = read_keys(path) if path.exists() else ()
        if any(key.name == name for key in keys):
            raise ValueError(f"{path} has a key {name!r} already: revoke it first, or choose another name")
        _write(path, (*keys, key))
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Remove a key from the file. Raises ValueError with the names of all keys if there is none of that name."""
    path.stat()  # raises OSError for a missing file
    with _locked(path):
        keys = read_keys(path)
        remaining = [key for key in keys if key.name != name]
        if len(remaining) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise ValueError(f"{path} has no key {name!r}; there are: {names}")
        _write(path, remaining)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from changing the file. Two that read it before either wrote would undo a change.

    The lock is a file of its own, because a change replaces the key file. It stays, and ends with the process.
    Raises ValueError if another process keeps the lock.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        with FileLock(lock, LOCK_SECONDS, mode=0o600):
            if owner := _other_owner(path):
                # The owner of the key file has to be able to open it too.
                os.chown(lock, *owner)
            yield
    except Timeout:
        raise ValueError(
            f"{path}: another process has been changing the file for {LOCK_SECONDS} seconds; try again later"
        ) from None


def _write(path: Path, keys: Iterable[ApiKey]) -> None:
    lines = (key.model_dump_json(exclude_defaults=True) + "\n" for key in keys)
    # If root runs the command, the file must keep its owner, or the service could no longer read it. The new file
    # has the owner before it has its name, so the service can read it at any time.
    write_atomically(path, "".join(lines).encode(), mode=0o600, owner=_other_owner(path))


def _other_owner(path: Path) -> tuple[int, int] | None:
    """The IDs of the user and the group that the file belongs to, unless the user is the one of this process."""
    if os.name != "posix" or not path.exists():
        return None
    found = path.stat()
    return None if found.st_uid == os.geteuid() else (found.st_uid, found.st_gid)


def _refuse_duplicates(keys: Iterable[ApiKey], source: str) -> None:
    """With two keys of one name, a limit or a revocation would be ambiguous."""
    names = set()
    for key in keys:
        if key.name in names:
            raise ValueError(f"{source}: there are two keys of the name {key.name!r}")
        names.add(key.name)


def _describe(error: ValidationError) -> str:
    """The faults without the input, which might be a key."""
    faults = error.errors(include_input=False, include_url=False)
    return "; ".join(": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in faults)
