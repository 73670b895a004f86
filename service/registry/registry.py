"""Model registry: loads, checks and swaps weights while the service runs."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import BinaryIO

from anyio import to_thread

from engine.inference.model_selection import models_of
from engine.models import checkpoint
from engine.models.checkpoint import SUFFIX, WeightsError, WeightsFile
from engine.models.precision import name_of, pick_device, resolve
from engine.system.runtime import in_own_thread
from service.problems import ProblemError
from service.registry.served_model import ServedModel
from service.registry.shared_weights import SharedWeights
from service.registry.snapshot import Fault, Snapshot
from service.registry.weights_folder import (
    FileVersion,
    WeightsFolder,
    WeightsNotStored,
    checked_copy,
    digest_of,
    printable,
    reason_of,
)
from service.settings import Settings
from service.storage.away import StorageAway
from service.telemetry.logs import log

# Of a digest, in the reason of a fault.
DIGEST_DIGITS = 12


class ModelRegistry:
    """The weights folder, and the models that are served from it.

    `models` is replaced, never changed: a request keeps the snapshot that it took, in any thread.
    For each name the registry keeps the current and the previous weights.
    When a file is removed, its weights are served until a restart, because clients may still name them.

    Of several replicas, each serves the shared weights. The folder only proposes weights of a new name. A file
    that is activated, or that changes while the service runs, is published to all replicas.
    """

    def __init__(self, settings: Settings, shared: SharedWeights | None = None) -> None:
        """Read every file, and try the weights of the default model. The others are tried at their first use.

        shared: the weights of all replicas, if there are several.
        Raises StorageAway, and ValueError if weights of the default model are missing or invalid. Other invalid
        files are listed in `models.faults`. They do not stop the start, as they do not stop a running service.
        """
        self._folder = WeightsFolder(settings.weights or checkpoint.weights_folder())
        self._device = pick_device(settings.device)
        self._compute = in_own_thread(partial(resolve, settings.precision, self._device))
        self.models = Snapshot({}, settings.model, str(self._device), name_of(self._compute))
        self._lock = Lock()
        self._shared = shared
        # By name, the digest of shared weights that are unusable: they are not fetched again. An empty one means
        # that they could not be fetched: they are.
        self._refused: dict[str, str] = {}
        # The versions at the last scan, the versions that were loaded last, and the digests of those.
        self._last_scan = self._folder.scan()
        self._loaded_versions: dict[str, FileVersion] = {}
        self._digests: dict[str, str] = {}
        known = shared.wanted() if shared else {}
        self._folder.refuse_missing({**self._last_scan, **known}, settings.model)
        needed = models_of(settings.model)
        for name, version in self._last_scan.items():
            if name in known:
                self._note(name, version)
                self._keep(name, known[name].digest)
                continue
            try:
                self._load(name, version, try_now=name in needed, at_start=True)
            except WeightsError as error:
                # The default model must not be replaced by another one without notice.
                if name in needed:
                    raise WeightsError(f"{self._folder.path(name)}: {error}") from error
        if shared:
            self._follow(needed)
            for name in needed:
                if name not in self.models.by_name:
                    raise WeightsError(f"{name}: {self.models.faults[name].reason}")

    def refresh(self) -> None:
        """Load every new or changed file, once two scans in a row find the same version of it. Then load what
        other replicas have published.

        A file that is still being written differs between two scans. An invalid file is not tried again until it
        changes.
        """
        with self._lock:
            found = self._folder.scan()
            for name, version in found.items():
                if version != self._loaded_versions.get(name) and version == self._last_scan.get(name):
                    with suppress(WeightsError, StorageAway):
                        self._load(name, version)
            self._last_scan = found
            for name in self._loaded_versions.keys() - found.keys():
                self._mark_removed(name)
            with suppress(StorageAway):
                self._follow()

    def activate(self, name: str) -> None:
        """Load a file now, on all replicas. Raises ProblemError with status 404, 422 or 503; the old weights then
        stay in service.
        """
        with self._lock:
            # Compared with the files that exist, not joined to a path: the name may be any text.
            found = self._folder.scan()
            if name not in found:
                raise ProblemError(
                    f"The weights folder has no file {name + SUFFIX!r}. Its models are: {', '.join(found)}.",
                    404,
                    kind="NoSuchModel",
                )
            try:
                self._load(name, found[name], even_if_known=True)
            except WeightsError as error:
                raise ProblemError(f"{printable(name)}: {error}.", 422, kind="WeightsRefused") from error

    def receive(self, name: str, file: BinaryIO) -> None:
        """Serve a file that was sent, on all replicas. Without replicas it is put into the weights folder.

        Raises ProblemError with status 422, 503 or 507; the old weights then stay in service.
        """
        if self._shared is None:
            self._folder.store(name, file)
            self.activate(name)
            return
        try:
            with checked_copy(name, file) as path:
                digest = digest_of(path)
                self._shared.publish(name, digest, path)
        except OSError as error:
            raise WeightsNotStored(f"The weights cannot be stored: {error.strerror}.") from error
        with self._lock:
            self._follow()
        if name not in self.models.by_name or self.models.by_name[name].digest != digest:
            fault = self.models.faults.get(name)
            why = fault.reason if fault else "another replica has changed them meanwhile"
            raise ProblemError(f"{printable(name)}: {why}.", 409, kind="WeightsChanged")

    def roll_back(self, name: str) -> None:
        """Swap the current and the previous weights, on all replicas. Raises ProblemError with status 404, 409,
        422 or 503.
        """
        with self._lock:
            if name not in self.models.by_name:
                raise _no_weights(name, self.models)
            self._note_shared()
            digest = self.models.previous_digest(name)
            if digest is None:
                raise ProblemError(
                    f"Model {name!r} has had no other weights since the service started.",
                    409,
                    kind="NoPreviousWeights",
                )
            # Nothing may have used them yet. If they are unusable, the current weights stay in service.
            try:
                previous = self._obtain(name, digest)
                in_own_thread(previous.load)
            except (ValueError, OSError, RuntimeError, MemoryError) as error:
                reason = str(error) or type(error).__name__
                raise ProblemError(
                    f"{printable(name)}, previous weights: {reason}.", 422, kind="WeightsRefused"
                ) from error
            if self._shared and not self._shared.swap(name, self.models.shared[name]):
                raise ProblemError(
                    f"Another replica has changed the weights {name!r} meanwhile. GET /models shows them.",
                    409,
                    kind="WeightsChanged",
                )
            self._serve(name, previous)
            self._note_shared()

    def copy(self, name: str, path: Path) -> None:
        """Write the file of weights in service to a path, which is free. Raises ProblemError with status 404 or
        409, OSError and StorageAway.
        """
        served = self.models.by_name.get(name)
        if served is None:
            raise _no_weights(name, self.models)
        with suppress(FileNotFoundError):
            shutil.copyfile(self._folder.path(name), path)
            if digest_of(path) == served.digest:
                return
            path.unlink()
        if not self._shared:
            raise ProblemError(
                f"The file of the weights {name!r} that are in service is no longer in the weights folder.",
                409,
                kind="WeightsChanged",
            )
        self._shared.fetch(served.digest, path)

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

    def _load(
        self,
        name: str,
        version: FileVersion,
        try_now: bool = True,
        even_if_known: bool = False,
        at_start: bool = False,
    ) -> None:
        """Read a file, try it and serve it, on all replicas. Raises WeightsError, and records the fault, if it is
        invalid. Raises StorageAway.

        Nothing changes if the content is the same as at the last load. The file may only have been touched, and
        its weights may have been rolled back since.
        """
        self._loaded_versions[name] = version
        try:
            model = self._read(name, version)
            is_new = model.digest != self._digests.get(name) or even_if_known
            if is_new and try_now:
                in_own_thread(model.load)
            if is_new:
                self._share(name, model, at_start)
        # torch raises RuntimeError when it gets no memory.
        except (ValueError, RuntimeError, MemoryError) as error:
            reason = reason_of(error, self._folder.path(name))
            self._record_fault(name, reason)
            raise WeightsError(reason) from error
        self._digests[name] = model.digest
        if is_new:
            self._serve(name, model)
            self._note_shared()
        if not self.models.by_name[name].fault:
            self._clear_fault(name)

    def _read(self, name: str, version: FileVersion) -> ServedModel:
        """The file's weights; those in service, if they are the same."""
        file = self._folder.read(name, version)
        served = self.models.by_name.get(name)
        return served if served and served.digest == file.digest else self._served(file)

    def _note(self, name: str, version: FileVersion) -> None:
        """Remember a file that is not loaded, so that a later change of it is seen."""
        self._loaded_versions[name] = version
        with suppress(OSError):
            self._digests[name] = digest_of(self._folder.path(name))

    def _keep(self, name: str, digest: str) -> None:
        """See that the blob store has the shared weights, if the folder has the same ones."""
        if self._shared and self._digests.get(name) == digest:
            with suppress(StorageAway, WeightsError, OSError):
                self._shared.keep(digest, self._folder.path(name))

    def _share(self, name: str, model: ServedModel, at_start: bool) -> None:
        """Let all replicas serve a file of the folder; at the start, only if they have none of this name."""
        if self._shared:
            share = self._shared.propose if at_start else self._shared.publish
            try:
                share(name, model.digest, self._folder.path(name))
            except StorageAway:
                # The next scan tries again.
                del self._loaded_versions[name]
                raise

    def _note_shared(self) -> None:
        if self._shared:
            self.models = replace(self.models, shared=self._shared.wanted())

    def _follow(self, needed: Collection[str] | None = None) -> None:
        """Serve the shared weights. Raises StorageAway.

        needed: at the start, the weights that are tried at once.
        """
        self._note_shared()
        for name, (digest, _) in self.models.shared.items():
            served = self.models.by_name.get(name)
            if served and served.digest == digest:
                if self._refused.pop(name, None) is not None:
                    self._clear_fault(name)
            elif self._refused.get(name) != digest:
                self._adopt(name, digest, try_now=needed is None or name in needed)

    def _adopt(self, name: str, digest: str, try_now: bool) -> None:
        """Serve shared weights. If they are unusable, the old ones stay in service. Raises StorageAway."""
        try:
            model = self._obtain(name, digest)
            if try_now:
                in_own_thread(model.load)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            self._record_fault(
                name, f"shared weights {digest[:DIGEST_DIGITS]}: {reason_of(error, self._folder.path(name))}"
            )
            self._refused[name] = digest if isinstance(error, ValueError) else ""
            return
        self._refused.pop(name, None)
        self._serve(name, model)
        self._clear_fault(name)

    def _obtain(self, name: str, digest: str) -> ServedModel:
        """The weights with this digest, from memory, the folder or the blob store.

        Raises WeightsError, OSError and StorageAway.
        """
        previous = self.models.previous.get(name)
        if previous and previous.digest == digest:
            return previous
        if self._digests.get(name) == digest:
            with suppress(WeightsError):
                file = in_own_thread(partial(checkpoint.read, self._folder.path(name)))
                if file.digest == digest:
                    return self._served(file)
        assert self._shared
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}{SUFFIX}"
            self._shared.fetch(digest, path)
            try:
                return self._served(in_own_thread(partial(checkpoint.read, path)))
            except WeightsError as error:
                raise WeightsError(reason_of(error, path)) from error

    def _served(self, file: WeightsFile) -> ServedModel:
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
        if self._shared:
            # The blob store has it.
            self._digests.pop(name, None)
        elif name in self.models.by_name:
            self._record_fault(name, "the file was removed; its weights are served until a restart")
        else:
            self._clear_fault(name)

    def _record_fault(self, name: str, reason: str) -> None:
        if (known := self.models.faults.get(name)) and known.reason == reason:
            return
        fault = Fault(file=printable(name), reason=reason, since=datetime.now(UTC))
        log.warning("weights file not in service", file=fault.file, reason=fault.reason)
        self.models = replace(self.models, faults={**self.models.faults, name: fault})

    def _clear_fault(self, name: str) -> None:
        faults = {other: fault for other, fault in self.models.faults.items() if other != name}
        self.models = replace(self.models, faults=faults)


def _no_weights(name: str, models: Snapshot) -> ProblemError:
    known = ", ".join(models.by_name)
    return ProblemError(f"There are no weights {name!r}. Available: {known}.", 404, kind="NoSuchModel")
