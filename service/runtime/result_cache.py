"""Result cache: keeps denoised files and their pages for some minutes, within a limit on their memory.

A second request with the same file and the same parameters is answered from it at once. One that only asks for
another format gets the kept pages, which are written anew without the network. A result is found by the SHA-256
of the uploaded file, the parameters and the weights. So only a client that sends the same bytes finds it, and
weights that change make the older results useless.

Equal requests that arrive at the same time are all computed: the cache knows a result only once it is finished.
"""

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal
from urllib.parse import quote

from engine.imageio.image import EncodedImage, Image, ImageSequence
from engine.imageio.sandbox.shared_file import SharedFile
from service.runtime.ticket import MemoryShare

# What counts for an entry in addition to its image, in bytes: keys, headers and Python's objects.
ENTRY_BYTES = 4096
# How much of a file is hashed at a time, in bytes.
CHUNK = 2**20
# How long after its time an entry may still be in memory, in seconds.
DELAY = 1.0

# What the cache had: the whole answer, the denoised pages, or nothing.
Found = Literal["hit", "pages", "miss"]


@dataclass(frozen=True)
class PagesKey:
    """What denoised pages depend on.

    upload: SHA-256 of the file. params: the parameters as text, without those for writing. weights: digests of
    all weights that may be used. floats: whether the pages may become floats, which the format to write allows.
    """

    upload: str
    params: str
    weights: tuple[str, ...]
    floats: bool


@dataclass(frozen=True)
class FileKey:
    """What a written file depends on. kind: name of the format. quality: as in the request."""

    pages: PagesKey
    kind: str
    quality: int | None


@dataclass(frozen=True)
class Provenance:
    """How an image was denoised. digest: of the weights. noise, estimate: as in the headers. steps: in words."""

    model: str
    digest: str
    precision: str
    noise: str
    estimate: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class DenoisedPages:
    """A denoised image that is not written as a file yet."""

    file: ImageSequence
    provenance: Provenance

    @property
    def size(self) -> int:
        """Of its memory, in bytes."""
        return sum(map(_page_bytes, self.file.pages))


@dataclass(frozen=True)
class DenoisedFile:
    """A denoised image file. seconds: of work on it for this request. found: what the cache had."""

    written: EncodedImage
    provenance: Provenance
    seconds: float
    found: Found = "miss"

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers that describe it."""
        made = self.provenance
        headers = {
            "X-Denoise-Model": quote(made.model),
            "X-Denoise-Digest": made.digest,
            "X-Denoise-Precision": made.precision,
            "X-Denoise-Seconds": f"{self.seconds:.3f}",
            "X-Denoise-Cache": self.found,
            "X-Denoise-Noise": made.noise,
            "X-Denoise-Estimate": made.estimate,
        }
        if made.steps:
            headers["X-Denoise-Steps"] = "; ".join(made.steps)
        if self.written.changed:
            headers["X-Denoise-Changed"] = "; ".join(self.written.changed)
        return headers


@dataclass(eq=False)
class _Entry:
    """lent: how many responses that are being sent use it. kept: whether it can still be found."""

    value: DenoisedPages | DenoisedFile
    size: int
    until: float
    lent: int = 0
    kept: bool = True


class ResultCache:
    """The kept results, of which those that were not asked for longest go first. For the event loop only.

    size: bytes that count as taken, at most `limit`. A result that is being sent counts until it has been sent.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        """limit: in bytes; 0 keeps nothing. seconds: how long a result is kept."""
        self.limit = limit
        self.size = 0
        self._seconds = seconds
        self._entries = OrderedDict[PagesKey | FileKey, _Entry]()

    def has_pages(self, key: PagesKey) -> bool:
        """Whether the pages are kept now."""
        return self._find(key) is not None

    def pages(self, key: PagesKey) -> DenoisedPages | None:
        """The kept pages. Whoever uses them counts their memory: they may leave the cache meanwhile."""
        entry = self._find(key)
        return entry.value if entry and isinstance(entry.value, DenoisedPages) else None

    def file(self, key: FileKey, memory: MemoryShare) -> DenoisedFile | None:
        """The kept file. It stays counted here until `memory` is released."""
        entry = self._find(key)
        if not entry or not isinstance(entry.value, DenoisedFile):
            return None
        entry.lent += 1
        memory.hold(entry.size, partial(self._return, entry))
        return replace(entry.value, seconds=0.0, found="hit")

    def keep_pages(self, key: PagesKey, pages: DenoisedPages) -> None:
        """Keeps pages if there is room for them."""
        size = pages.size + ENTRY_BYTES
        if size <= self.limit:
            own = replace(pages.file, pages=tuple(map(_with_own_memory, pages.file.pages)))
            self._keep(key, replace(pages, file=own), size)

    def keep_file(self, key: FileKey, file: DenoisedFile) -> None:
        """Keeps a file if there is room for it."""
        self._keep(key, file, len(file.written.data) + ENTRY_BYTES)

    def _find(self, key: PagesKey | FileKey) -> _Entry | None:
        self._drop_old()
        if entry := self._entries.get(key):
            self._entries.move_to_end(key)
        return entry

    def _keep(self, key: PagesKey | FileKey, value: DenoisedPages | DenoisedFile, size: int) -> None:
        self._drop_old()
        if key in self._entries or size > self.limit:
            return
        loop = asyncio.get_running_loop()
        # An entry that is being sent would stay in memory.
        for other in [other for other, entry in self._entries.items() if not entry.lent]:
            if self.size + size <= self.limit:
                break
            self._drop(other)
        if self.size + size > self.limit:
            return
        self._entries[key] = _Entry(value, size, loop.time() + self._seconds)
        self.size += size
        # Not only at the next request: a service without requests must not keep old results either.
        loop.call_later(self._seconds + DELAY, self._drop_old)

    def _drop_old(self) -> None:
        now = asyncio.get_running_loop().time()
        for key in [key for key, entry in self._entries.items() if entry.until <= now]:
            self._drop(key)

    def _drop(self, key: PagesKey | FileKey) -> None:
        entry = self._entries.pop(key)
        entry.kept = False
        self._free(entry)

    def _return(self, entry: _Entry, size: int) -> None:
        entry.lent -= 1
        self._free(entry)

    def _free(self, entry: _Entry) -> None:
        if not entry.kept and not entry.lent:
            self.size -= entry.size


def digest_of(file: SharedFile) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Does not move the file's position, which processes share."""
    digest = hashlib.sha256()
    at, end = file.start, file.start + file.size
    while at < end and (chunk := os.pread(file.fd, min(CHUNK, end - at), at)):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()


def _page_bytes(page: Image) -> int:
    known = page.metadata
    tensors = [page.samples, page.alpha, page.missing.codes if page.missing else None]
    blocks = [known.icc_profile, known.exif, known.xmp, known.chunks]
    size = sum(int(tensor.nbytes) for tensor in tensors if tensor is not None)
    return size + sum(len(block) for block in blocks if block)


def _with_own_memory(page: Image) -> Image:
    """The page with copies of what may lie in one piece of memory with the noisy samples, which it would keep."""
    alpha = None if page.alpha is None else page.alpha.clone()
    missing = page.missing and replace(page.missing, codes=page.missing.codes.clone())
    return replace(page, alpha=alpha, missing=missing)
