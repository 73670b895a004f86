"""Training job: the recipe, the data and the files of a run, and what must hold before it begins."""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.models import checkpoint as weights
from engine.training.checkpoint import job_of
from engine.training.recipe import Recipe
from engine.training.workers import PEER_TIMEOUT

# Types in which workers exchange gradients, the default first. bfloat16 halves the bytes. After 800 steps of a
# small network, its PSNR was lower by 0.006 to 0.017 dB (two seeds, two and four workers).
WIRES = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainingJob:
    """The recipe, data and files of a run.

    terms: the licence of the data, for the weights' metadata. device: "auto", "cpu" or "cuda". start: weights
    from which a new run begins, instead of random ones; those of a smaller network are grown to the recipe's, and
    those that cannot grow into it decide the network's size. fixed_size: the recipe decides it in every case.
    log_every, validate_every, save_every: in seconds. name: of the job in torchrun. A worker that torchrun has
    restarted continues from the checkpoint of a job of this name. wire: the type in which workers exchange
    gradients. peer_timeout: the seconds that a worker waits for the others in a step.
    """

    recipe: Recipe
    out: Path
    data: Sequence[Path] = ()
    terms: str = "not stated"
    resume: bool = False
    device: str = "auto"
    start: Path | None = None
    fixed_size: bool = False
    log_every: float = 1.0
    validate_every: float = 60.0
    save_every: float = 180.0
    name: str = ""
    wire: str = WIRES[0]
    peer_timeout: float = PEER_TIMEOUT

    @property
    def continues(self) -> bool:
        """Whether the run continues from its checkpoint."""
        return self.resume or bool(self.name and job_of(self.checkpoint) == self.name)

    @property
    def checkpoint(self) -> Path:
        """The file from which the run can be resumed."""
        return self.out.with_suffix(".checkpoint")

    @property
    def constant_checkpoint(self) -> Path:
        """The checkpoint from just before the learning rate began to fall."""
        return self.out.with_suffix(".constant.checkpoint")

    @property
    def log(self) -> Path:
        """The log file."""
        return self.out.with_suffix(".jsonl")

    def check(self) -> None:
        """Creates the folder of `out` if needed.

        Raises ValueError for paths that do not fit together, or OSError if the folder cannot be written to.
        """
        if self.out.suffix != weights.SUFFIX:
            raise ValueError(f"the weights' name must end in {weights.SUFFIX}; got {self.out.name}")
        if folders := [str(path) for path in (self.out, self.checkpoint, self.log) if path.is_dir()]:
            raise ValueError(f"{folders[0]} is a folder, but the run writes a file of this name; rename one")
        if self.checkpoint.exists() and not self.continues:
            raise ValueError(f"{self.checkpoint} exists: resume that run, or remove the file to start a new one")
        if self.start and self.resume:
            raise ValueError(f"a resumed run continues from its checkpoint and cannot begin from {self.start}")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(self.out.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "no permission to write into this folder", str(self.out.parent))
