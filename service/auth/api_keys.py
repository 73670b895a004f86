"""The keys that let requests in: a file of their hashes, or a variable.

A key is 256 random bits: however fast its SHA-256 is taken, nobody finds it by guessing. A hash that is slow on
purpose, as passwords need it, would make every request slow and nothing safer.
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from engine.system.atomic_file import write_atomically

# By which a key is found where none should be: in a repository, in a mail.
PREFIX = "denoise_"
RANDOM_BYTES = 32
# Of a key that somebody else made. Shorter ones might not hold enough chance.
SHORTEST = 32
ENTRY = re.compile(rf"([^:]*):([!-~]{{{SHORTEST},}})")


class Key(BaseModel):
    """A key, by its hash. What it makes belongs to its name: a new key of the same name has it still."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    created: AwareDatetime | None = None
    admin: bool = False
    rate: int | None = Field(default=None, ge=1, description="Requests a minute; else the service says.")
    pixels: int | None = Field(default=None, ge=1, description="Pixels an hour; likewise.")


def digest(secret: str) -> str:
    """The hash by which a key is kept and found."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file, a JSON object on each line.

    Raises OSError if it cannot be read, ValueError naming the line that is none, or that others may write to it.
    """
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        # Who only reads it has nothing: no key comes of its hash.
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(f"{path}: its mode is {mode:o}, so that others may add keys of theirs; make it 600")
        lines = file.read().splitlines()
    keys = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                keys.append(Key.model_validate_json(line))
        except ValidationError as error:
            raise ValueError(f"{path}: line {number}: {_in_words(error)}") from None
    _refuse_twins(keys, str(path))
    return tuple(keys)


def keys_in(text: str) -> tuple[Key, ...]:
    """The keys of `name:key,name:key`. Raises ValueError saying which is none, without telling any."""
    keys = []
    for number, entry in enumerate(text.split(","), 1):
        parts = ENTRY.fullmatch(entry.strip())
        if not parts:
            raise ValueError(f"number {number} is not NAME:KEY with at least {SHORTEST} ASCII characters of key")
        try:
            keys.append(Key(name=parts[1], sha256=digest(parts[2])))
        except ValidationError as error:
            raise ValueError(f"number {number}: {_in_words(error)}") from None
    _refuse_twins(keys, "the list")
    return tuple(keys)


def add_key(
    path: Path, name: str, admin: bool = False, rate: int | None = None, pixels: int | None = None
) -> str:
    """Add a key to the file, which is made if it is not there. Returns the key itself, which is kept nowhere.

    Raises ValueError if there is one of that name.
    """
    keys = read_keys(path) if path.exists() else ()
    if any(key.name == name for key in keys):
        raise ValueError(f"{path} has a key {name!r} already: revoke it first, or choose another name")
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        key = Key(name=name, sha256=digest(secret), created=now, admin=admin, rate=rate, pixels=pixels)
    except ValidationError as error:
        raise ValueError(_in_words(error)) from None
    _write(path, (*keys, key))
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file. Raises ValueError naming those there are if it has none of that name."""
    keys = read_keys(path)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        there = ", ".join(key.name for key in keys) or "none"
        raise ValueError(f"{path} has no key {name!r}; there are: {there}")
    _write(path, left)


def _write(path: Path, keys: Iterable[Key]) -> None:
    before = path.stat() if path.exists() else None
    lines = (key.model_dump_json(exclude_defaults=True) + "\n" for key in keys)
    write_atomically(path, "".join(lines).encode(), mode=0o600)
    # Where root runs the command, the file stays the service's, which could not read it else.
    if before and before.st_uid != path.stat().st_uid:
        os.chown(path, before.st_uid, before.st_gid)


def _refuse_twins(keys: Iterable[Key], where: str) -> None:
    """Two of one name: which of them a limit or a revocation means, nobody could say."""
    names = set()
    for key in keys:
        if key.name in names:
            raise ValueError(f"{where}: there are two keys of the name {key.name!r}")
        names.add(key.name)


def _in_words(error: ValidationError) -> str:
    """Without what came: it might be a key."""
    faults = error.errors(include_input=False, include_url=False)
    return "; ".join(": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in faults)
