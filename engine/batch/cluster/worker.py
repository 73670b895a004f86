"""Worker of a cluster: reads, denoises and writes the images that it is handed. Knows nothing of Ray."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from threading import Event

from engine.batch.files import MAPPED_BYTES
from engine.batch.planning import Task
from engine.batch.reading import READ_HERE, Reader, sandboxed
from engine.batch.tasks import DenoiseOptions, Outcome, run_task, words_of_error
from engine.inference.adapted_noise import choosable
from engine.inference.model_selection import AUTO_MODELS, LoadedModel, known_adapted, load_with, models_of
from engine.inference.mosaic import mosaic_nets
from engine.models import checkpoint, precision
from engine.models.checkpoint import Model, WeightsFile
from engine.storage.bucket import FileStamp
from engine.storage.locations import ObjectPath, file_stamp
from engine.system.runtime import use_cores


def denoise_version() -> str:
    """The installed version of this project."""
    try:
        return metadata.version("denoise")
    except metadata.PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class ModelFiles:
    """The weights that a model's name stands for, read once and sent to all workers.

    files: the weights, by the names that `models_of` has; and for an auto model, the adapted weights.
    """

    name: str
    files: Mapping[str, WeightsFile]

    @classmethod
    def read(cls, name: str) -> "ModelFiles":
        """Raises ValueError for weights that cannot be used."""
        adapted = known_adapted() if name in AUTO_MODELS else {}
        return cls(name, {each: checkpoint.read(checkpoint.find(each)) for each in (*models_of(name), *adapted)})

    @property
    def digest(self) -> str:
        """As that of a LoadedModel."""
        return "+".join(file.digest for file in self.files.values())

    def build(self, device: str, type_name: str) -> LoadedModel:
        """The model, ready to run."""
        place = precision.pick_device(device)
        compute = precision.resolve(type_name, place)

        def load(name: str) -> Model:
            return self.files[name].build(place, compute)

        adapted = choosable({name: file.metadata for name, file in self.files.items()})
        return load_with(load, self.name, adapted)


@dataclass(frozen=True)
class WorkerSetup:
    """What all workers need. device, precision: as for the command line.

    cores: CPUs of each. shared: files that every node must see, since it reads or writes beside them.
    """

    model: ModelFiles
    options: DenoiseOptions
    device: str = "cpu"
    precision: str = "auto"
    cores: int = 1
    shared: tuple[Path, ...] = ()
    version: str = field(default_factory=denoise_version)


@dataclass(frozen=True)
class Row:
    """What became of a task. output_stamp: of the output. finished: False if it is worth another try later."""

    outcome: Outcome
    output_stamp: FileStamp | None = None
    finished: bool = True


class Worker:
    """Handles one image after another. `start` comes first. `stop` may be called from another thread."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._stopping = Event()
        self._resources = ExitStack()
        self._reader: Reader = READ_HERE
        self._model: LoadedModel | None = None
        self._options = setup.options

    def start(self) -> None:
        """Load the weights and the codecs. Raises ValueError if this node cannot do the work."""
        setup, host = self._setup, platform.node()
        if (version := denoise_version()) != setup.version:
            raise ValueError(
                f"{host} has version {version} of denoise, but the command has {setup.version}; "
                "install the same version on all nodes"
            )
        if missing := [str(path) for path in setup.shared if not path.exists()]:
            raise ValueError(
                f"{host} does not see {missing[0]}; use a folder that all nodes share under the same name, "
                "or a bucket"
            )
        use_cores(setup.cores)
        share = min(1.0, setup.cores / (os.cpu_count() or 1))
        # First: its process loads the codecs while this one loads the weights.
        self._reader = self._resources.enter_context(sandboxed(share))
        self._model = setup.model.build(setup.device, setup.precision)
        self._options = replace(setup.options, mosaic_nets=mosaic_nets(self._model))

    def denoise(self, work: Sequence[tuple[Task, FileStamp]]) -> Iterator[Row]:
        """Run tasks, each with the stamp that its source had. Ends early after `stop`."""
        use_cores(self._setup.cores)
        for number, (task, stamp) in enumerate(work):
            if self._stopping.is_set():
                return
            for following, its_stamp in work[number + 1 : number + 2]:
                if isinstance(following.source, ObjectPath) and its_stamp[0] < MAPPED_BYTES:
                    following.source.read_ahead()
            yield self._row(task, stamp)

    def stop(self) -> None:
        """Finish the current image, and begin no other."""
        self._stopping.set()

    def close(self) -> None:
        """End the process that decodes."""
        self._resources.close()

    def _row(self, task: Task, stamp: FileStamp) -> Row:
        assert self._model, "start comes first"
        try:
            outcome = run_task(self._model.select, task, self._options, stamp, self._reader)
            return Row(outcome, None if outcome.error else file_stamp(task.target))
        except OSError as error:
            return Row(Outcome(task, words_of_error(task, error)), finished=False)
        # A mistake of the program that shows in one image of a million must not end the other images.
        except Exception as error:
            return Row(Outcome(task, f"internal error: {type(error).__name__}: {error}"), finished=False)
