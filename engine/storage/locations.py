"""Locations: paths of files, and of objects in buckets, which read like paths of files."""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from engine.storage.bucket import STORE_CLASSES, Bucket, FileStamp

# A URL of a bucket or of something in it.
_URL = re.compile(rf"({'|'.join(STORE_CLASSES)}):/+([^/]*)/?(.*)", re.DOTALL)


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object in a bucket, or a folder of objects, which is what their keys begin with.

    key: without a slash at either end; empty for the whole bucket. means_folder: it was given with a slash.
    """

    bucket: Bucket
    key: str
    means_folder: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.bucket.url}/{self.key}"

    def __truediv__(self, other: str | PurePath) -> "ObjectPath":
        name = other.as_posix() if isinstance(other, PurePath) else other
        return self if name == "." else ObjectPath(self.bucket, f"{self.prefix}{name}")

    @property
    def prefix(self) -> str:
        """What the keys of the objects in this folder begin with."""
        return f"{self.key}/" if self.key else ""

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The end of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "ObjectPath":
        """The folder that this is in."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "ObjectPath":
        """Another object in the same folder."""
        return self.parent / name

    def relative_to(self, folder: "ObjectPath") -> PurePosixPath:
        """The way from a folder to this. Raises ValueError if it is elsewhere."""
        if self.bucket != folder.bucket or not f"{self.key}/".startswith(folder.prefix):
            raise ValueError(f"{self} is not in {folder}")
        return PurePosixPath(self.prefix.removeprefix(folder.prefix))

    def absolute(self) -> "ObjectPath":
        """This, which is always absolute."""
        return self

    def stamp(self) -> FileStamp | None:
        """The stamp of the object, or None if there is none. Raises OSError."""
        return self.bucket.stamp(self.key)

    def exists(self) -> bool:
        """Whether there is such an object. A folder is none."""
        return bool(self.key) and self.stamp() is not None

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return self.exists()

    def is_dir(self) -> bool:
        """Whether this means a folder: there is no object of that name. The folder may be empty."""
        return self.means_folder or not self.exists()

    def read_bytes(self) -> bytes:
        """The object's bytes. Raises OSError."""
        return self.bucket.read(self.key)

    def read_ahead(self) -> None:
        """Begin to read the object that `read_bytes` will return."""
        self.bucket.read_ahead(self.key)

    def read_head(self, count: int) -> bytes:
        """The object's first bytes. Raises OSError."""
        return self.bucket.read_head(self.key, count)

    def write(self, content: bytes | Path) -> None:
        """Write the object, from bytes or a file. Raises BucketNotFound, OSError."""
        self.bucket.write(self.key, content)


# Where an image is, or goes to.
Location = Path | ObjectPath


def location(text: str | Location) -> Location:
    """The location that a text means: an object if it is the URL of a bucket, or else a file."""
    if not isinstance(text, str):
        return text
    if not (match := _URL.fullmatch(text)):
        return Path(text)
    scheme, name, key = match.groups()
    if not name:
        raise ValueError(f"{text}: the name of the bucket is missing; write {scheme}://BUCKET/FOLDER")
    return ObjectPath(Bucket(f"{scheme}://{name}"), key.strip("/"), key.endswith("/"))


def is_url(text: str) -> bool:
    """Whether a text is the URL of a bucket or of something in it."""
    return _URL.fullmatch(text) is not None


def file_stamp(path: Location) -> FileStamp | None:
    """The stamp of a file or object, or None if it does not exist. Raises OSError if that cannot be found out."""
    if isinstance(path, ObjectPath):
        return path.stamp()
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size, status.st_mtime_ns
