"""Start of a run: its first state, which is new or from a checkpoint, and the same for all workers."""

import json
import secrets

import torch

from engine.layers import Module
from engine.models import checkpoint as weights
from engine.models import precision
from engine.models.checkpoint import WeightsFile
from engine.models.net2net import grow
from engine.models.networks import NetworkConfig, build_network, config_from_dict, config_to_dict, kind_of
from engine.training.agreement import check_agreement
from engine.training.checkpoint import Origin, load_checkpoint
from engine.training.loop import TrainState, new_train_state
from engine.training.recipe import SIZE_KEYS, Recipe, read_recipe, shipped_recipes
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
        compute, size = precision.name_of(state.compute), config_to_dict(state.recipe.network_config())
    else:
        compute, size = "", {}
    check_agreement(workers, job)
    compute, size = json.loads(workers.gather(json.dumps([compute, size]))[0])
    if workers.rank:
        recipe = job.recipe.with_size_of(config_from_dict(size))
        state = new_train_state(recipe, precision.resolve(compute), device)
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
    return load_checkpoint(job.checkpoint, job.recipe, job.data, device, job.fixed_size)


def _new_run(job: TrainingJob, device: torch.device) -> tuple[TrainState, Origin, float]:
    """The state of a new run, its origin, and 0 seconds."""
    compute = precision.resolve(job.recipe.precision, device)
    recipe, net, start = job.recipe, None, ""
    if job.start:
        file = weights.read(job.start)
        recipe = sized_recipe(job.recipe, file, job.fixed_size)
        net, start = _start_network(file, recipe), f"{file.name} {file.digest}"
    return new_train_state(recipe, compute, device, net), Origin(secrets.token_hex(8), start), 0.0


def sized_recipe(recipe: Recipe, file: WeightsFile, fixed_size: bool) -> Recipe:
    """The recipe, with the size of the network in the file if that cannot grow into the recipe's.

    fixed_size: the recipe's size was asked for. Raises ValueError with both networks if they do not fit.
    """
    config = recipe.network_config()
    found, expected = (json.dumps(config_to_dict(each)) for each in (file.config, config))
    unfit = f"{file.path}: holds the network {found}; the recipe trains {expected}"
    if kind_of(file.config) != recipe.network:
        fitting = [name for name in shipped_recipes() if read_recipe(name).network == kind_of(file.config)]
        raise ValueError(f"{unfit}. Choose a recipe for this kind of network: {', '.join(fitting)}")
    try:
        _start_network(file, recipe)
    except ValueError as error:
        if fixed_size:
            raise ValueError(f"{unfit}: {error}. Leave out {' and '.join(_size_keys(config))}") from error
        return recipe.with_size_of(file.config)
    return recipe


def _size_keys(config: NetworkConfig) -> list[str]:
    return [key for key in config_to_dict(config) if key in SIZE_KEYS]


def _start_network(file: WeightsFile, recipe: Recipe) -> Module:
    """The recipe's network with a file's weights, grown if it is larger. Raises ValueError if it cannot grow."""
    net, config = file.build().net, recipe.network_config()
    if file.config == config:
        return net
    larger = build_network(config, torch.Generator().manual_seed(recipe.seed))
    grow(net, larger)
    return larger
