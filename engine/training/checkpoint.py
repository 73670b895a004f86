"""Training checkpoints: all that a resumed run needs, in one safetensors file."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch

from engine.layers import parameters
from engine.models import precision
from engine.system.os_errors import reason
from engine.training.loop import Diverged, TrainState, new_train_state
from engine.training.recipe import Recipe, recipe_from_dict

FORMAT = "denoise-checkpoint-1"


class Origin(NamedTuple):
    """A run's random name, and the name and digest of the weights it began from, "" if they were random."""

    run: str
    start: str

    def to_dict(self) -> dict[str, str]:
        """For the metadata of checkpoints and weights."""
        return {"run": self.run} | ({"start": self.start} if self.start else {})


def encode_checkpoint(
    state: TrainState, origin: Origin, data: Sequence[Path], seconds: float, job: str = ""
) -> bytes:
    """The content of the file. seconds: since the start of the run; job: the name of the torchrun job, or "".

    Raises Diverged if a weight is not a finite number.
    """
    if not all(parameter.value.isfinite().all() for parameter in parameters(state.net)):
        raise Diverged(f"a weight is not a finite number after step {state.step}; the last save is kept")
    metadata = {
        "format": FORMAT,
        "recipe": json.dumps(state.recipe.to_dict()),
        "precision": precision.name_of(state.compute),
        "data": data_names(data),
        **origin.to_dict(),
        "step": str(state.step),
        "pixels": str(state.pixels),
        "seconds": str(seconds),
        **({"job": job} if job else {}),
    }
    return safetensors.torch.save(state.tensors(), metadata)


def load_checkpoint(
    path: Path, recipe: Recipe, data: Sequence[Path], device: torch.device, fixed_size: bool = False
) -> tuple[TrainState, Origin, float]:
    """The state of the run, its origin, and the seconds that it had taken.

    The recipe may differ from the checkpoint's in minutes and steps alone; and, unless `fixed_size`, in the
    network's size if the run began from weights, which may have decided it. Raises ValueError saying what differs
    or why the file cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise ValueError(f"{path}: no checkpoint to resume from: {reason(error)}") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: no checkpoint to resume from: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: format {metadata.get('format')!r}; this version reads {FORMAT!r}")
    earlier = recipe_from_dict(json.loads(metadata["recipe"]), str(path))
    if metadata.get("start") and not fixed_size and earlier.network == recipe.network:
        recipe = recipe.with_size_of(earlier.network_config())
    if replace(earlier, steps=recipe.steps, minutes=recipe.minutes) != recipe:
        values = recipe.to_dict()
        changed = [key for key, value in earlier.to_dict().items() if value != values[key]]
        raise ValueError(f"{path}: the run began with another recipe; these differ: {', '.join(changed)}")
    if metadata["data"] != data_names(data):
        raise ValueError(f"{path}: the run began with other data, {metadata['data']}; got {data_names(data)}")
    state = new_train_state(recipe, precision.resolve(metadata["precision"]), device)
    state.load_tensors(tensors)
    state.step, state.pixels = int(metadata["step"]), int(metadata["pixels"])
    return state, Origin(metadata["run"], metadata.get("start", "")), float(metadata["seconds"])


def job_of(path: Path) -> str:
    """The name of the torchrun job that wrote a checkpoint; "" if there is none, or no checkpoint."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("job", ""))
    except (OSError, safetensors.SafetensorError):
        return ""


def data_names(data: Sequence[Path]) -> str:
    """The names of the data's files and folders, for metadata."""
    return ", ".join(path.resolve().name for path in data) or "dead leaves"
