"""Views: images on view, kept for some minutes, so that each look at another part need not send the file again.

A view is the uploaded file, its decoded pages, and what was rendered of them. A random token names it.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from fastapi import Request

from engine.imageio.formats import Format
from engine.imageio.image import Image, ImageInfo
from engine.imageio.sandbox.shared_file import SharedFile
from engine.inference.model_selection import Choice
from engine.inference.noise_estimation import NoiseEstimate
from engine.inference.preparation import Preparation
from engine.models.checkpoint import Model
from service.auth.dependencies import owner
from service.problems import ProblemError
from service.registry.snapshot import Snapshot
from service.runtime.rendering import Distribution
from service.runtime.result_cache import Provenance
from service.runtime.upload import ImageSource, receive_upload

# Seconds that an unused view is kept.
KEPT_SECONDS = 900
# Seconds between searches for views that were not used.
SWEEP_SECONDS = 60
# Views that are kept, whatever their size: each takes a file descriptor.
MAX_VIEWS = 200
# Bytes of randomness in a token: it cannot be guessed.
TOKEN_BYTES = 24


class ViewGone(ProblemError):
    """A view that is unknown, of another key, or no longer kept. The client has to send the file again."""

    status = 404

    def __init__(self) -> None:
        super().__init__(
            "There is no such view: the service keeps an image for some minutes only. Send the file again."
        )


@dataclass(frozen=True)
class Treatment:
    """How a page is denoised, and likewise all its parts.

    models: the snapshot that `model` is of. source: the page without impulses and banding, which `preparation`
    leaves out. words: what is done besides the network.
    """

    models: Snapshot
    model: Model
    preparation: Preparation
    source: Image
    words: tuple[str, ...]


@dataclass
class ViewedPage:
    """A decoded page. changed: differences from the file, in words.

    noise: the snapshot, and the choices that Snapshot.recommend answered. treatments: by the request's model and
    `force`. rendered: parts of the page that were reduced or denoised. made: how the whole page was denoised, by
    its key in `rendered`.
    """

    image: Image
    changed: tuple[str, ...]
    distribution: Distribution
    noise: tuple[Snapshot, dict[str, Choice]] | None = None
    treatments: dict[tuple[str, bool], Treatment] = field(default_factory=dict)
    rendered: dict[Any, Image] = field(default_factory=dict)
    made: dict[Any, Provenance] = field(default_factory=dict)

    @property
    def memory(self) -> int:
        """Bytes."""
        sources = [each.source for each in self.treatments.values()]
        images = {id(image.samples): image for image in (self.image, *sources, *self.rendered.values())}
        return sum(_bytes_of(image) for image in images.values())


def _bytes_of(image: Image) -> int:
    codes = None if image.missing is None else image.missing.codes
    return sum(each.nbytes for each in (image.samples, image.alpha, codes) if each is not None)


class View:
    """An uploaded file on view. token: its name; empty if it is not kept. count: of its pages, once known."""

    def __init__(self, file: SharedFile, owner: str) -> None:
        """Keeps the file open by a descriptor of its own."""
        self._file = SharedFile(os.dup(file.fd), file.size, file.start)
        self.owner = owner
        self.token = ""
        self.used = time.monotonic()
        self.count: int | None = None
        self.kind: Format | None = None
        # What the file's header says, and its SHA-256, once they were needed.
        self.identity: tuple[ImageInfo, str] | None = None
        self.pages: dict[int, ViewedPage] = {}
        # What Snapshot.choose answers for a stack, by the request's model, with the snapshot.
        self.choices: dict[str, tuple[Snapshot, tuple[Model, NoiseEstimate]]] = {}
        # One request decodes a page or denoises the whole, and the others wait for it.
        self.decoding = asyncio.Lock()
        self.denoising = asyncio.Lock()
        self._users = 0
        self._closed = False

    @property
    def source(self) -> ImageSource:
        """The file."""
        return ImageSource(self._open)

    @property
    def memory(self) -> int:
        """Bytes."""
        return self._file.size + sum(page.memory for page in self.pages.values())

    @contextmanager
    def _open(self) -> Iterator[SharedFile]:
        yield self._file

    @contextmanager
    def in_use(self) -> Iterator[Self]:
        """Keeps the file open until the block ends, also if the view is closed meanwhile."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            self._close_file()

    def close(self) -> None:
        """Frees its memory, once no request uses it."""
        self._closed = True
        self.pages.clear()
        self._close_file()

    def _close_file(self) -> None:
        if self._closed and not self._users and self._file.fd >= 0:
            os.close(self._file.fd)
            self._file = SharedFile(-1, 0)


class Views:
    """All views that are kept. Use it in the event loop only, and in a `with` block, which frees them."""

    def __init__(self, memory: int, clock: Callable[[], float] = time.monotonic) -> None:
        """memory: that all views together may take, in bytes."""
        self._limit = memory
        self._clock = clock
        # The one that was used last comes last.
        self._views: dict[str, View] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer:
            self._timer.cancel()
        for view in self._views.values():
            view.close()
        self._views.clear()

    @property
    def memory(self) -> int:
        """Bytes that all views take."""
        return sum(view.memory for view in self._views.values())

    def add(self, file: SharedFile, owner: str) -> View:
        """A view of a file. It is kept, and has a token, if the file is not larger than the limit."""
        view = View(file, owner)
        if file.size <= self._limit:
            view.token = secrets.token_urlsafe(TOKEN_BYTES)
            self._views[view.token] = view
            self._use(view)
            self._start_timer()
        return view

    def get(self, token: str, owner: str) -> View:
        """The view of that token. Raises ViewGone, also for a view of another key."""
        view = self._views.get(token)
        if view is None or view.owner != owner:
            raise ViewGone()
        self._use(view)
        return view

    def discard(self, view: View) -> None:
        """Stops keeping a view, if it is kept."""
        if view.token in self._views:
            self._drop(view)

    def trim(self, view: View) -> None:
        """Frees memory over the limit: other views first, then parts of this one. Call it when one has grown."""
        while view.token in self._views and (self.memory > self._limit or len(self._views) > MAX_VIEWS):
            oldest = next(iter(self._views.values()))
            if oldest is not view:
                self._drop(oldest)
            elif not _shrink(view):
                return

    def _use(self, view: View) -> None:
        view.used = self._clock()
        self._views[view.token] = self._views.pop(view.token)
        self.trim(view)

    def _drop(self, view: View) -> None:
        del self._views[view.token]
        view.close()

    def _start_timer(self) -> None:
        if not self._timer:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        for view in [each for each in self._views.values() if self._clock() - each.used > KEPT_SECONDS]:
            self._drop(view)
        if self._views:
            self._start_timer()


def _shrink(view: View) -> bool:
    """Frees the part of a view that costs least to make again. Returns whether there was one."""
    for page in view.pages.values():
        if page.rendered:
            del page.rendered[next(iter(page.rendered))]
            return True
    if view.pages:
        del view.pages[next(iter(view.pages))]
        return True
    return False


@asynccontextmanager
async def opened_view(
    request: Request, token: str | None, keep: bool = True
) -> AsyncIterator[tuple[View, dict[str, str]]]:
    """The view with that token, or else a view of the request's body; and the text fields of its form.

    keep: whether a view of the body is kept for further requests.
    Raises ViewGone and what receive_upload raises.
    """
    views: Views = request.state.views
    if token:
        with views.get(token, owner(request)).in_use() as view:
            yield view, {}
        return
    async with receive_upload(request, request.state.scheduler, request.state.settings) as upload:
        with upload.image.open() as file:
            view = views.add(file, owner(request)) if keep else View(file, owner(request))
        with view.in_use():
            try:
                yield view, dict(upload.fields)
            except BaseException:
                # A file that cannot be shown is not kept.
                views.discard(view)
                raise
            finally:
                if not view.token:
                    view.close()
