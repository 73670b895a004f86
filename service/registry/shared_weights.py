"""Shared weights: which weights all replicas are to serve under a name, and the files of these weights.

The database has the digests. The blob store has the files, named by their digests, so a file never changes.
"""

import hashlib
from pathlib import Path

from engine.models.checkpoint import SUFFIX, WeightsError
from service.registry.snapshot import SharedDigests
from service.registry.weights_folder import digest_of
from service.storage.storage import Storage

# The version of the table. Increase it when the statement below changes.
VERSION = 1
TABLE = """
CREATE TABLE denoise_weights (
    name text PRIMARY KEY,
    digest text NOT NULL,
    previous text,
    changed timestamptz NOT NULL DEFAULT now()
)
"""


class SharedWeights:
    """The weights of all replicas. Use it in threads. Each call raises StorageAway if the storage is away."""

    def __init__(self, storage: Storage) -> None:
        """Raises ValueError if another version of the service has made the table."""
        self._database, self._blobs = storage.database, storage.blobs
        self._database.create_tables("weights", VERSION, TABLE)

    def wanted(self) -> dict[str, SharedDigests]:
        """What to serve, by name."""
        rows = self._database.rows("SELECT name, digest, previous FROM denoise_weights ORDER BY name")
        return {name: SharedDigests(digest, previous) for name, digest, previous in rows}

    def propose(self, name: str, digest: str, path: Path) -> None:
        """Let all replicas serve this file, unless they have weights of this name."""
        self._upload(digest, path)
        self._database.rows(
            "INSERT INTO denoise_weights (name, digest) VALUES (%s, %s) ON CONFLICT (name) DO NOTHING",
            [name, digest],
        )

    def publish(self, name: str, digest: str, path: Path) -> None:
        """Let all replicas serve this file. The weights that they have become the previous ones."""
        self._upload(digest, path)
        self._database.rows(
            "INSERT INTO denoise_weights AS old (name, digest) VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET digest = EXCLUDED.digest, previous = old.digest, changed = now() "
            "WHERE old.digest <> EXCLUDED.digest",
            [name, digest],
        )

    def keep(self, digest: str, path: Path) -> None:
        """Put a file into the blob store again if it is missing there, as in a new bucket."""
        self._upload(digest, path)

    def swap(self, name: str, known: SharedDigests) -> bool:
        """Let all replicas serve the previous weights. Returns whether the weights were still as known."""
        return bool(
            self._database.rows(
                "UPDATE denoise_weights SET digest = previous, previous = digest, changed = now() "
                "WHERE name = %s AND digest = %s AND previous = %s RETURNING name",
                [name, *known],
            )
        )

    def fetch(self, digest: str, path: Path) -> None:
        """Write the file with this digest to a path. Raises OSError, or WeightsError if the blob is damaged."""
        try:
            with path.open("xb") as file:
                self._blobs.fetch(_blob(digest), file)
        except FileNotFoundError:
            raise FileNotFoundError(f"the blob store has no {_blob(digest)}") from None
        if digest_of(path) != digest:
            raise WeightsError(f"the blob store's {_blob(digest)} is damaged: it has another SHA-256")

    def _upload(self, digest: str, path: Path) -> None:
        try:
            self._blobs.size(_blob(digest))
        except FileNotFoundError:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                raise WeightsError("the file changed while it was read") from None
            self._blobs.create(_blob(digest), data)


def _blob(digest: str) -> str:
    return f"weights/{digest}{SUFFIX}"
