"""Buckets: list, read and write the objects of an object store. Every object is written as a whole.

An object that is being written is not seen by others. It appears, or is replaced, once all its bytes have
arrived. If the writer ends before that, nothing has changed.
"""

import errno
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

# Of a file: size in bytes and modification time in ns. Of an object: size and ETag, or the time if it has none.
# What has the same stamp is taken to be unchanged.
FileStamp = tuple[int, int | str]

# Beginnings of the URLs of buckets, and obstore's classes for them.
STORE_CLASSES = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
# Variables of the environment with which a user outside a cloud gets access.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# Where the library looks for the credentials of a machine in a cloud, if there are no others.
METADATA_HOSTS = ("169.254.169.254", "metadata.google.internal")
# How often a request is sent again if the store fails or is too busy, and how long, in seconds. The first failure
# of a wrong address shows after a second or two.
MAX_RETRIES = 5
RETRY_SECONDS = 60
# How long a request may take, in seconds. The library's own 30 are few for large objects on slow lines.
REQUEST_SECONDS = 120
# Characters of the library's message that an error shows.
SHOWN = 300
NO_BUCKET = "there is no such bucket; create it, or check its name"


class BucketNotFound(ValueError):
    """A bucket that does not exist."""


class ObstoreMissing(ValueError):
    """A bucket without the package that reads buckets."""


@dataclass(frozen=True, order=True)
class Bucket:
    """A bucket, at a URL such as s3://NAME. Credentials and endpoints come from the environment.

    The bucket remembers the stamps of the objects that were listed, read or written through it. So a batch that
    has listed a folder sees it as it was then, and needs no request for each object. A pickled copy remembers
    nothing.
    """

    url: str
    _stamps: dict[str, FileStamp] = field(default_factory=dict, compare=False, repr=False)
    # Everything below these is known.
    _listed: set[str] = field(default_factory=set, compare=False, repr=False)
    _folders: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict, compare=False, repr=False)

    # Objects that are being read ahead.
    _ahead: dict[str, Future[tuple[bytes, Any]]] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[type["Bucket"], tuple[str]]:
        return Bucket, (self.url,)

    def listed(self, prefix: str) -> list[str]:
        """The keys below a prefix, which ends in a slash or is empty. Raises BucketNotFound, OSError."""
        if not self._knows(prefix):
            with self._errors(""):
                for metas in _store(self.url).list(prefix or None):
                    self._remember_all(metas)
            self._listed.add(prefix)
        return sorted(key for key in self._stamps if key.startswith(prefix))

    def listed_folder(self, prefix: str) -> tuple[list[str], list[str]]:
        """The keys directly in a folder, and its subfolders, each with a slash at its end."""
        if prefix not in self._folders:
            with self._errors(""):
                found = _store(self.url).list_with_delimiter(prefix or None)
            folders = sorted(f"{folder.removesuffix('/')}/" for folder in found["common_prefixes"])
            self._folders[prefix] = sorted(self._remember_all(found["objects"])), folders
        return self._folders[prefix]

    def stamp(self, key: str) -> FileStamp | None:
        """The stamp of an object, or None if there is none."""
        if key not in self._stamps:
            if self._knows(key):
                return None
            try:
                with self._errors(key):
                    self._remember(_store(self.url).head(key))
            except FileNotFoundError:
                return None
        return self._stamps[key]

    def read(self, key: str) -> bytes:
        """An object's bytes. Afterwards `stamp` tells the stamp of these bytes."""
        with self._errors(key):
            ahead = self._ahead.pop(key, None)
            data, meta = ahead.result() if ahead else self._fetch(key)
            self._remember(meta)
        return data

    def read_ahead(self, key: str) -> None:
        """Begin to read an object that `read` will return, so that it does not have to wait."""
        if key not in self._ahead:
            self._ahead[key] = _reader().submit(self._fetch, key)

    def _fetch(self, key: str) -> tuple[bytes, Any]:
        result = _store(self.url).get(key)
        return bytes(result.bytes()), result.meta

    def read_head(self, key: str, count: int) -> bytes:
        """The first bytes of an object."""
        with self._errors(key):
            return bytes(_store(self.url).get(key, options={"range": (0, count)}).bytes())

    def download(self, key: str, path: Path) -> None:
        """Write an object into a file, in parts, so that it need not fit in memory."""
        with self._errors(key):
            result = _store(self.url).get(key)
            with path.open("wb") as file:
                for part in result.stream():
                    file.write(part)
            self._remember(result.meta)

    def write(self, key: str, content: bytes | Path) -> FileStamp:
        """Write an object, from bytes or a file. Raises BucketNotFound, OSError."""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        with self._errors(key, writes=True):
            result = _store(self.url).put(key, content)
        if result["e_tag"] is None:
            self._stamps.pop(key, None)
            with self._errors(key):
                self._remember(_store(self.url).head(key))
        else:
            self._stamps[key] = size, result["e_tag"]
        return self._stamps[key]

    def remove(self, keys: list[str]) -> None:
        """Remove objects. Those that are gone already are no error."""
        with self._errors(""):
            if keys:
                _store(self.url).delete(keys)
        for key in keys:
            self._stamps.pop(key, None)

    def times(self, prefix: str) -> dict[str, float]:
        """When the objects below a prefix were written, by the store's clock, in seconds."""
        with self._errors(""):
            metas = [meta for metas in _store(self.url).list(prefix) for meta in metas]
        return {meta["path"]: meta["last_modified"].timestamp() for meta in metas}

    def _knows(self, key: str) -> bool:
        return any(key.startswith(prefix) for prefix in self._listed)

    def _remember_all(self, metas: list[Any]) -> list[str]:
        """Returns the keys. Leaves out the empty objects that some programs make for folders."""
        files = [meta for meta in metas if meta["size"] or Path(meta["path"]).suffix]
        for meta in files:
            self._remember(meta)
        return [meta["path"] for meta in files]

    def _remember(self, meta: Any) -> None:
        mark = meta["e_tag"] or meta["last_modified"].isoformat()
        self._stamps[meta["path"]] = meta["size"], mark

    @contextmanager
    def _errors(self, key: str, writes: bool = False) -> Iterator[None]:
        """Raises FileNotFoundError for an object that does not exist, BucketNotFound, and OSError."""
        try:
            from obstore import exceptions
        except ImportError as error:
            raise ObstoreMissing(
                f"{self.url}: buckets need the package obstore: pip install 'denoise[buckets]'"
            ) from error
        name = f"{self.url}/{key}" if key else self.url
        try:
            yield
        except (FileNotFoundError, exceptions.NotFoundError) as error:
            # Only reading an object can also miss the object.
            if key and not writes:
                raise FileNotFoundError(errno.ENOENT, "there is no such object", name) from error
            raise BucketNotFound(f"{self.url}: {NO_BUCKET}") from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise PermissionError(
                errno.EACCES, "the object store denies access; check the rights", name
            ) from error
        except exceptions.BaseError as error:
            words = " ".join(str(error).partition("\n\nDebug source")[0].split())
            # Of a listing, the library has no error of its own for this.
            if not key and "404 Not Found" in words:
                raise BucketNotFound(f"{self.url}: {NO_BUCKET}") from error
            if any(host in words for host in METADATA_HOSTS):
                needed = CREDENTIALS[self.url.partition("://")[0]]
                raise PermissionError(
                    errno.EACCES, f"found no credentials in the environment; set {needed}", name
                ) from error
            raise OSError(errno.EIO, f"the object store answers: {words[:SHOWN]}", name) from error


@lru_cache
def _store(url: str) -> Any:
    """The library's store for a bucket. Kept, as it holds the connections."""
    from obstore import store

    scheme, _, name = url.partition("://")
    retry = {"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    # Only an endpoint that the environment names can be without encryption, such as one on this machine.
    client = {"timeout": f"{REQUEST_SECONDS} seconds", "allow_http": True}
    return getattr(store, STORE_CLASSES[scheme])(name, client_options=client, retry_config=retry)


@lru_cache
def _reader() -> ThreadPoolExecutor:
    """The thread that reads ahead."""
    return ThreadPoolExecutor(1)
