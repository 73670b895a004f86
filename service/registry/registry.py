"""The weights folder, and how what is served changes with it while the service runs."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from typing import NamedTuple

import torch
from anyio import to_thread

from engine.inference.model_selection import CHOICES, behind
from engine.inference.sanity import check
from engine.models import checkpoint
from engine.models.checkpoint import SUFFIX, Model, WeightsError
from engine.models.precision import name_of, pick_device, resolve
from engine.system.runtime import in_own_thread
from service.problems import ProblemError
from service.registry.snapshot import Fault, Snapshot
from service.settings import Settings
from service.telemetry.logs import log


class Stamp(NamedTuple):
    """What changes when a file does. The time of a change of owner or mode counts: it may be what was wrong."""

    inode: int
    size: int
    modified: int
    changed: int


class ModelRegistry:
    """The weights folder, and what of it is in service.

    `models` is never changed but replaced: whoever took it keeps what it holds, and may read it in any thread.
    Of each name the weights in service and those before them are kept, besides what is being loaded and checked.
    What a file held that is gone stays in service until a restart: clients name it, and a new file may follow.
    """

    def __init__(self, settings: Settings) -> None:
        """Load every file. Raises ValueError saying which of the default's weights are missing or no good.

        Others that are no good are told of in `models.faults`, as later on: what came while the service ran, and
        did not stop it, must not stop its next start either.
        """
        self._folder = settings.weights or checkpoint.weights_folder()
        self._device = pick_device(settings.device)
        self._compute = in_own_thread(partial(resolve, settings.precision, self._device))
        self.models = Snapshot({}, settings.model, str(self._device), name_of(self._compute))
        self._changing = Lock()
        # Each file when it was last looked at, and when it was last read; the digest of what was read then.
        self._seen = self._found()
        self._read: dict[str, Stamp] = {}
        self._digests: dict[str, str] = {}
        _refuse_missing(self._folder, self._seen, settings.model)
        for name, stamp in self._seen.items():
            try:
                self._take(name, stamp)
            except WeightsError as error:
                # No other weights stand in for the default's: whoever asks for one must not get another unawares.
                if name in behind(settings.model):
                    raise WeightsError(f"{self._path(name)}: {error}") from error

    def look(self) -> None:
        """Take every file that is new or has changed, once two looks find it the same, and so written to its end.

        One that cannot be used is told of, and not tried again until it changes.
        """
        with self._changing:
            found = self._found()
            for name, stamp in found.items():
                if stamp != self._read.get(name) and stamp == self._seen.get(name):
                    with suppress(WeightsError):
                        self._take(name, stamp)
            self._seen = found
            for name in self._read.keys() - found.keys():
                self._miss(name)

    def activate(self, name: str) -> None:
        """Take a file as it is now. Raises NoSuchModel; Refused if it is no good: what was served still is."""
        with self._changing:
            # Looked up, not joined to a path: what comes may be any text.
            found = self._found()
            if name not in found:
                raise ProblemError(
                    f"The weights folder has no file {name + SUFFIX!r}. Its models are: {', '.join(found)}.",
                    404,
                    kind="NoSuchModel",
                )
            try:
                self._take(name, found[name], although_known=True)
            except WeightsError as error:
                raise ProblemError(f"{_shown(name)}: {error}.", 422, kind="WeightsRefused") from error

    def roll_back(self, name: str) -> None:
        """Serve what was served before, and keep what is served now as what was before.

        Raises NoSuchModel, NothingBefore.
        """
        with self._changing:
            if name not in self.models.by_name:
                raise ProblemError(
                    f"There are no weights {name!r}. Available: {', '.join(self.models.by_name)}.",
                    404,
                    kind="NoSuchModel",
                )
            if name not in self.models.previous:
                raise ProblemError(
                    f"Model {name!r} has had no other weights since the service started.",
                    409,
                    kind="NoPreviousWeights",
                )
            self._serve(name, self.models.previous[name])

    @asynccontextmanager
    async def watched(self, interval: float) -> AsyncIterator[None]:
        """Meanwhile, look at the folder every so many seconds; never if that is 0."""
        looking = asyncio.create_task(self._look_every(interval)) if interval else None
        try:
            yield
        finally:
            if looking:
                looking.cancel()
                await asyncio.wait([looking])

    async def _look_every(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await to_thread.run_sync(self.look)
            except Exception:
                # Files that are no good do not get here. What does is a mistake of ours; the looks go on.
                log.exception("a look at the weights folder went wrong")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"

    def _found(self) -> dict[str, Stamp]:
        """The files of the folder, by name. One that begins with a dot is on its way to another name."""
        paths = sorted(path for path in self._folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
        stamps = ((path.stem, _stamp(path)) for path in paths)
        return {name: stamp for name, stamp in stamps if stamp}

    def _take(self, name: str, stamp: Stamp, although_known: bool = False) -> None:
        """Read a file, check it and put it in service. Raises WeightsError, and tells of it, if it is no good.

        One that holds what it held when it was last read changes nothing: it was only touched, and may have been
        rolled back.
        """
        self._read[name] = stamp
        try:
            model = self._load(name, stamp)
        # RuntimeError is what torch raises when it gets no memory.
        except (ValueError, RuntimeError, MemoryError) as error:
            # Clients are told as well: where the folder lies is none of their business.
            path, reason = str(self._path(name)), str(error) or type(error).__name__
            reason = reason.removeprefix(f"{path}: ").replace(path, _shown(name))
            self._tell(name, reason)
            raise WeightsError(reason) from error
        known, self._digests[name] = self._digests.get(name), model.digest
        if model.digest != known or although_known:
            self._serve(name, model)
        self._forget_fault(name)

    def _load(self, name: str, stamp: Stamp) -> Model:
        if name in CHOICES or not name.isprintable():
            raise WeightsError("weights cannot have this name")
        model = in_own_thread(partial(_checked, self._path(name), self._device, self._compute))
        # Written to in place, it may have been read half before and half after.
        if _stamp(self._path(name)) != stamp:
            raise WeightsError("was changed while it was read")
        return model

    def _serve(self, name: str, model: Model) -> None:
        """Put weights in service, in one assignment: other threads see all of it or nothing."""
        was = self.models.by_name.get(name)
        if was and was.digest == model.digest:
            return
        log.info("weights in service", model=name, digest=model.digest, before=was and was.digest)
        self.models = replace(
            self.models,
            by_name=dict(sorted({**self.models.by_name, name: model}.items())),
            loaded={**self.models.loaded, name: datetime.now(UTC)},
            previous={**self.models.previous, **({name: was} if was else {})},
        )

    def _miss(self, name: str) -> None:
        """Notice that a file is gone."""
        del self._read[name]
        if name in self.models.by_name:
            self._tell(name, "is gone; what it held is served until a restart")
        else:
            self._forget_fault(name)

    def _tell(self, name: str, reason: str) -> None:
        if (known := self.models.faults.get(name)) and known.reason == reason:
            return
        fault = Fault(file=_shown(name), reason=reason, since=datetime.now(UTC))
        log.warning("weights file not in service", file=fault.file, reason=fault.reason)
        self.models = replace(self.models, faults={**self.models.faults, name: fault})

    def _forget_fault(self, name: str) -> None:
        faults = {other: fault for other, fault in self.models.faults.items() if other != name}
        self.models = replace(self.models, faults=faults)


def _checked(path: Path, device: torch.device, compute: torch.dtype) -> Model:
    """Weights that make an image. Raises WeightsError or ValueError."""
    model = checkpoint.load(path, device, compute)
    check(model.net)
    return model


def _stamp(path: Path) -> Stamp | None:
    """None of what is no file, or no longer there."""
    try:
        found = path.stat()
    except OSError:
        return None
    regular = S_ISREG(found.st_mode)
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if regular else None


def _shown(name: str) -> str:
    """A file's name for people, even if it is none that could be sent to them."""
    file = f"{name}{SUFFIX}"
    return file if file.isprintable() else repr(file)


def _refuse_missing(folder: Path, names: Collection[str], default: str) -> None:
    if missing := [name for name in behind(default) if name not in names]:
        there = ", ".join(names) or "no weights at all"
        path = folder / f"{missing[0]}{SUFFIX}"
        raise WeightsError(f"{path}: the default model's weights are not there; the folder has {there}")
