"""Start of a run: its first state, which is new or from a checkpoint, and the same for all workers."""

import json
import secrets
from pathlib import Path

import torch

from engine.layers import Module
from engine.models import checkpoint as weights
from engine.models import precision
from engine.models.net2net import grow
from engine.models.networks import build_network, config_to_dict
from engine.training.agreement import check_agreement
from engine.training.checkpoint import Origin, load_checkpoint
from engine.training.loop import TrainState, new_train_state
from engine.training.recipe import Recipe
from engine.training.training_job import TrainingJob
from engine.training.workers import Workers


def begin_run(job: TrainingJob, workers: Workers, device: torch.device) -> tuple[TrainState, Origin, float]:
    """The state at the start of a run or of a resumed part, its origin, and the seconds that it has taken before.

    Worker 0 makes the state, or reads it from the checkpoint. The others get a copy, without the origin.
    Raises ValueError for a checkpoint or weights that do not fit, and for workers that do not fit together.
    """
    # All workers see this error, before anything is read.
    workers.share(job.recipe.batch)
    if workers.rank == 0:
        job.check()
        state, origin, seconds = _resume_run(job, device) if job.continues else _new_run(job, device)
        compute = precision.name_of(state.compute)
    else:
        compute = ""
    check_agreement(workers, job)
    compute = workers.gather(compute)[0]
    if workers.rank:
        state = new_train_state(job.recipe, precision.resolve(compute), device)
        origin, seconds = Origin("", ""), 0.0
    if workers.count > 1:
        seconds = _copy_from_first(workers, state, seconds)
    return state, origin, seconds


def _copy_from_first(workers: Workers, state: TrainState, seconds: float) -> float:
    """Give the state worker 0's numbers. Returns its seconds."""
    numbers, tensors = torch.tensor([state.step, state.pixels, seconds], dtype=torch.float64), state.tensors()
    workers.copy_from_first([numbers, *tensors.values()])
    state.load_tensors(tensors)
    step, pixels, seconds = numbers.tolist()
    state.step, state.pixels = int(step), int(pixels)
    return seconds


def _resume_run(job: TrainingJob, device: torch.device) -> tuple[TrainState, Origin, float]:
    return load_checkpoint(job.checkpoint, job.recipe, job.data, device)


def _new_run(job: TrainingJob, device: torch.device) -> tuple[TrainState, Origin, float]:
    """The state of a new run, its origin, and 0 seconds."""
    compute = precision.resolve(job.recipe.precision, device)
    net, start = _start_network(job.start, job.recipe) if job.start else (None, "")
    return new_train_state(job.recipe, compute, device, net), Origin(secrets.token_hex(8), start), 0.0


def _start_network(path: Path, recipe: Recipe) -> tuple[Module, str]:
    """The recipe's network with a file's weights, grown if it is larger, and the file's name and digest.

    Raises ValueError with both networks if the file's cannot be grown to the recipe's.
    """
    model, config = weights.load(path), recipe.network_config()
    net = model.net
    if model.config != config:
        net = build_network(config, torch.Generator().manual_seed(recipe.seed))
        try:
            grow(model.net, net)
        except ValueError as error:
            found, expected = (json.dumps(config_to_dict(each)) for each in (model.config, config))
            raise ValueError(
                f"{path}: holds the network {found}; the recipe trains {expected}: {error}"
            ) from error
    return net, f"{model.name} {model.digest}"
