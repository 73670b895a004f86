"""Model registry: loads, checks and swaps weights while the service runs."""

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

from anyio import to_thread

from engine.inference.model_selection import AUTO_MODELS, models_of
from engine.models import checkpoint
from engine.models.checkpoint import SUFFIX, WeightsError
from engine.models.precision import name_of, pick_device, resolve
from engine.system.runtime import in_own_thread
from service.problems import ProblemError
from service.registry.served_model import ServedModel
from service.registry.snapshot import Fault, Snapshot
from service.settings import Settings
from service.telemetry.logs import log


class FileVersion(NamedTuple):
    """Changes whenever a file changes. It includes ctime: a new owner or mode may make a file readable."""

    inode: int
    size: int
    modified: int
    changed: int


class ModelRegistry:
    """The weights folder, and the models that are served from it.

    `models` is replaced, never changed: a request keeps the snapshot that it took, in any thread.
    For each name the registry keeps the current and the previous weights.
    When a file is removed, its weights are served until a restart, because clients may still name them.
    """

    def __init__(self, settings: Settings) -> None:
        """Read every file, and try the weights of the default model. The others are tried at their first use.

        Raises ValueError if weights of the default model are missing or invalid. Other invalid files are listed
        in `models.faults`. They do not stop the start, just as they do not stop a running service.
        """
        self._folder = settings.weights or checkpoint.weights_folder()
        self._device = pick_device(settings.device)
        self._compute = in_own_thread(partial(resolve, settings.precision, self._device))
        self.models = Snapshot({}, settings.model, str(self._device), name_of(self._compute))
        self._lock = Lock()
        # The versions at the last scan, the versions that were loaded last, and the digests of those.
        self._last_scan = self._scan()
        self._loaded_versions: dict[str, FileVersion] = {}
        self._digests: dict[str, str] = {}
        _refuse_missing(self._folder, self._last_scan, settings.model)
        needed = models_of(settings.model)
        for name, version in self._last_scan.items():
            try:
                self._load(name, version, try_now=name in needed)
            except WeightsError as error:
                # The default model must not be replaced by another one without notice.
                if name in needed:
                    raise WeightsError(f"{self._path(name)}: {error}") from error

    def refresh(self) -> None:
        """Load every new or changed file, once two scans in a row find the same version of it.

        A file that is still being written differs between two scans. An invalid file is not tried again until it
        changes.
        """
        with self._lock:
            found = self._scan()
            for name, version in found.items():
                if version != self._loaded_versions.get(name) and version == self._last_scan.get(name):
                    with suppress(WeightsError):
                        self._load(name, version)
            self._last_scan = found
            for name in self._loaded_versions.keys() - found.keys():
                self._mark_removed(name)

    def activate(self, name: str) -> None:
        """Load a file now. Raises ProblemError with status 404 or 422; the old weights then stay in service."""
        with self._lock:
            # Compared with the files that exist, not joined to a path: the name may be any text.
            found = self._scan()
            if name not in found:
                raise ProblemError(
                    f"The weights folder has no file {name + SUFFIX!r}. Its models are: {', '.join(found)}.",
                    404,
                    kind="NoSuchModel",
                )
            try:
                self._load(name, found[name], even_if_known=True)
            except WeightsError as error:
                raise ProblemError(f"{_printable(name)}: {error}.", 422, kind="WeightsRefused") from error

    def roll_back(self, name: str) -> None:
        """Swap the current and the previous weights. Raises ProblemError with status 404, 409 or 422."""
        with self._lock:
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
            previous = self.models.previous[name]
            # Nothing may have used them yet. If they are unusable, the current weights stay in service.
            try:
                in_own_thread(previous.load)
            except (ValueError, RuntimeError, MemoryError) as error:
                reason = str(error) or type(error).__name__
                raise ProblemError(
                    f"{_printable(name)}, previous weights: {reason}.", 422, kind="WeightsRefused"
                ) from error
            self._serve(name, previous)

    @asynccontextmanager
    async def watching(self, interval: float) -> AsyncIterator[None]:
        """Refresh every `interval` seconds while the context is open; never if it is 0."""
        task = asyncio.create_task(self._refresh_forever(interval)) if interval else None
        try:
            yield
        finally:
            if task:
                task.cancel()
                await asyncio.wait([task])

    async def _refresh_forever(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await to_thread.run_sync(self.refresh)
            except Exception:
                # Invalid files do not raise here, so this is a bug. Keep watching.
                log.exception("cannot check the weights folder")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"

    def _scan(self) -> dict[str, FileVersion]:
        """The files of the folder, by name, without hidden ones: those are renamed once they are complete."""
        paths = sorted(path for path in self._folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
        versions = ((path.stem, _version(path)) for path in paths)
        return {name: version for name, version in versions if version}

    def _load(self, name: str, version: FileVersion, try_now: bool = True, even_if_known: bool = False) -> None:
        """Read a file, try it and serve it. Raises WeightsError, and records the fault, if it is invalid.

        Nothing changes if the content is the same as at the last load. The file may only have been touched, and
        its weights may have been rolled back since.
        """
        self._loaded_versions[name] = version
        try:
            model = self._read(name, version)
            is_new = model.digest != self._digests.get(name) or even_if_known
            if is_new and try_now:
                in_own_thread(model.load)
        # torch raises RuntimeError when it gets no memory.
        except (ValueError, RuntimeError, MemoryError) as error:
            # Clients see the reason too. They must not learn the path of the folder.
            path, reason = str(self._path(name)), str(error) or type(error).__name__
            reason = reason.removeprefix(f"{path}: ").replace(path, _printable(name))
            self._record_fault(name, reason)
            raise WeightsError(reason) from error
        self._digests[name] = model.digest
        if is_new:
            self._serve(name, model)
        if not self.models.by_name[name].fault:
            self._clear_fault(name)

    def _read(self, name: str, version: FileVersion) -> ServedModel:
        """The file's weights; those in service, if they are the same."""
        if name in AUTO_MODELS or not name.isprintable():
            raise WeightsError("weights cannot have this name")
        file = in_own_thread(partial(checkpoint.read, self._path(name)))
        # If it was overwritten in place meanwhile, the model may be a mixture of two versions.
        if _version(self._path(name)) != version:
            raise WeightsError("the file changed while it was read")
        served = self.models.by_name.get(name)
        if served and served.digest == file.digest:
            return served
        return ServedModel(file, self._device, self._compute, self._on_late_fault)

    def _on_late_fault(self, model: ServedModel, reason: str) -> None:
        """Record that weights in service failed at their first use."""
        with self._lock:
            if self.models.by_name.get(model.name) is model:
                self._record_fault(model.name, reason)

    def _serve(self, name: str, model: ServedModel) -> None:
        """Put weights in service by a single assignment, so that other threads see all of the change or none."""
        previous = self.models.by_name.get(name)
        if previous and previous.digest == model.digest:
            return
        log.info(
            "weights loaded",
            model=name,
            digest=model.digest,
            previous=previous and previous.digest,
            tried=model.tried,
        )
        self.models = replace(
            self.models,
            by_name=dict(sorted({**self.models.by_name, name: model}.items())),
            loaded={**self.models.loaded, name: datetime.now(UTC)},
            previous={**self.models.previous, **({name: previous} if previous else {})},
        )

    def _mark_removed(self, name: str) -> None:
        del self._loaded_versions[name]
        if name in self.models.by_name:
            self._record_fault(name, "the file was removed; its weights are served until a restart")
        else:
            self._clear_fault(name)

    def _record_fault(self, name: str, reason: str) -> None:
        if (known := self.models.faults.get(name)) and known.reason == reason:
            return
        fault = Fault(file=_printable(name), reason=reason, since=datetime.now(UTC))
        log.warning("weights file not in service", file=fault.file, reason=fault.reason)
        self.models = replace(self.models, faults={**self.models.faults, name: fault})

    def _clear_fault(self, name: str) -> None:
        faults = {other: fault for other, fault in self.models.faults.items() if other != name}
        self.models = replace(self.models, faults=faults)


def _version(path: Path) -> FileVersion | None:
    """None if it is not a regular file, or no longer there."""
    try:
        state = path.stat()
    except OSError:
        return None
    regular = S_ISREG(state.st_mode)
    return FileVersion(state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns) if regular else None


def _printable(name: str) -> str:
    """The file's name, escaped if it has characters that cannot be printed."""
    file = f"{name}{SUFFIX}"
    return file if file.isprintable() else repr(file)


def _refuse_missing(folder: Path, names: Collection[str], default: str) -> None:
    if missing := [name for name in models_of(default) if name not in names]:
        available = ", ".join(names) or "no weights at all"
        path = folder / f"{missing[0]}{SUFFIX}"
        raise WeightsError(f"{path}: the default model needs this file, but the folder has {available}")
