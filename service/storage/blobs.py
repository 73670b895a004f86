"""Blob store: files in a bucket of S3, Google Cloud or Azure, or in a folder. A blob is whole or absent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Semaphore
from typing import Any, BinaryIO, TypeVar

import obstore
from anyio import CapacityLimiter, to_thread
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import from_url

from engine.storage.bucket import CREDENTIALS, METADATA_HOSTS, NO_BUCKET
from service.storage.away import BlobsAway, Breaker
from service.telemetry.logs import log

T = TypeVar("T")

# Reads for clients that wait at once.
THREADS = 64
# How long one request to the store may take. Large blobs are sent and read in parts, each by its own request.
REQUEST = timedelta(seconds=20)
CONNECT = timedelta(seconds=3)
# No request is repeated later than this.
REPEAT = timedelta(seconds=5)
# The most time until a call that gets no answer gives up: REPEAT, then one more REQUEST.
MOST_SECONDS = 25
# Size of a part, in bytes, that is read or written at once: the least that S3 takes.
PART = 5 * 2**20
# Parts of a blob that are written at the same time, and blobs that are. Each part is in memory. They share the
# network, and have to arrive within REQUEST, so the store needs 2 MB a second.
PARTS_AT_ONCE = 2
BLOBS_AT_ONCE = 4
# Written at the start, to see whether the store can be written to.
PROBE = "probe"


class Blobs:
    """The blobs below a URL. Names have slashes. Use it in threads, because calls wait for the network.

    Beside what each call says, it raises BlobsAway.
    """

    def __init__(self, url: str) -> None:
        """url: s3://, gs://, az:// or file://. Credentials come from the environment, as for other tools.

        Raises ValueError if the store cannot be used, with the reason.
        """
        self._breaker = Breaker(BlobsAway, MOST_SECONDS)
        self._writing = Semaphore(BLOBS_AT_ONCE)
        self._threads = CapacityLimiter(THREADS)
        try:
            if url.startswith("file:"):
                self._store = from_url(url, mkdir=True)
            else:
                # http:// is used only if the endpoint says so, for a store on a private network.
                self._store = from_url(
                    url,
                    client_options={"timeout": REQUEST, "connect_timeout": CONNECT, "allow_http": True},
                    retry_config={"max_retries": 3, "retry_timeout": REPEAT},
                )
            obstore.put(self._store, PROBE, b"")
        except (BaseError, OSError, ValueError) as error:
            raise ValueError(f"blobs: {url}: {_why_refused(url, error)}") from None

    async def in_thread(self, work: Callable[..., T], *values: Any) -> T:
        """Calls a function that uses the blobs, in a thread that waits for nothing else."""
        return await to_thread.run_sync(work, *values, limiter=self._threads)

    def put(self, name: str, data: bytes | BinaryIO) -> None:
        """Writes a blob whole, or replaces it. data: bytes, or a file at its start."""
        # The turn comes first: who waited for it learns at once that the store is away.
        with self._writing, self._calling():
            obstore.put(self._store, name, data, chunk_size=PART, max_concurrency=PARTS_AT_ONCE)

    def create(self, name: str, data: bytes) -> bool:
        """Writes a blob unless there is one of this name. Returns whether it was written."""
        with self._calling():
            try:
                obstore.put(self._store, name, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def size(self, name: str) -> int:
        """The size of a blob, in bytes. Raises FileNotFoundError if there is none."""
        with self._looking_for(name):
            return int(obstore.head(self._store, name)["size"])

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """A blob's bytes, or `size` of them from `start`. Raises FileNotFoundError."""
        with self._looking_for(name):
            if size is None:
                size = obstore.head(self._store, name)["size"] - start
            # Stores refuse an empty range.
            return bytes(obstore.get_range(self._store, name, start=start, length=size)) if size else b""

    def fetch(self, name: str, file: BinaryIO) -> None:
        """Writes a blob's bytes to an open file. Raises FileNotFoundError and OSError."""
        size = self.size(name)
        for start in range(0, size, PART):
            file.write(self.read(name, start, min(PART, size - start)))
        file.flush()

    def delete(self, *names: str) -> None:
        """Removes blobs. A blob that is not there is no error."""
        with self._calling():
            for name in names:
                try:
                    obstore.delete(self._store, name)
                except FileNotFoundError:
                    continue

    def list(self, prefix: str) -> Iterator[str]:
        """The names of the blobs below a folder."""
        with self._calling():
            for page in obstore.list(self._store, prefix):
                yield from (blob["path"] for blob in page)

    @contextmanager
    def _looking_for(self, name: str) -> Iterator[None]:
        """Raises FileNotFoundError if the blob is missing, but BlobsAway if the whole bucket is."""
        with self._calling():
            try:
                yield
            except FileNotFoundError as error:
                # A bucket that is missing looks like a blob that is missing, until it is written to. Reading the
                # probe does not tell: whoever empties the bucket removes it too.
                obstore.put(self._store, PROBE, b"")
                raise MissingBlob(name) from error

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Raises BlobsAway for the errors of a store that is away."""
        self._breaker.refuse_while_away()
        try:
            yield
        except MissingBlob:
            self._breaker.reset()
            raise
        except (BaseError, FileNotFoundError) as error:
            self._breaker.trip()
            log.error("the blob store is away", error=_reason(error))
            raise BlobsAway from error
        except BaseException:
            # An error of the caller.
            self._breaker.reset()
            raise
        self._breaker.reset()


class MissingBlob(FileNotFoundError):
    """A blob that is not in the store, though the store answers."""


def _why_refused(url: str, error: Exception) -> str:
    """Why the store cannot be used, in words that say what to do if that is known."""
    reason = _reason(error)
    if any(host in reason for host in METADATA_HOSTS):
        return f"found no credentials in the environment; set {CREDENTIALS[url.partition('://')[0]]}"
    if isinstance(error, FileNotFoundError | NotFoundError):
        return NO_BUCKET
    return reason


def _reason(error: Exception) -> str:
    """The error in a line, without the data that obstore adds for its own developers."""
    return " ".join(str(error).partition("Debug source")[0].split())[:300]
