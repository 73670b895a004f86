"""Plan of a training run in words: what it will do, and which quality to expect when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.imageio.read import is_image_name
from engine.layers import parameters
from engine.models import checkpoint as weights
from engine.models.networks import build_network, kind_of
from engine.system.file_names import earlier_results
from engine.training.recipe import Recipe
from engine.training.start import sized_recipe
from engine.training.training_job import TrainingJob

# Minutes of the expected gains.
EXPECTED_MINUTES = (1, 10, 60)


@dataclass(frozen=True)
class ExpectedCurve:
    """Held-out PSNR less the noisy images', in dB, at EXPECTED_MINUTES of two cores that do nothing else."""

    gains: tuple[float, float, float]
    steps_a_minute: int


# By network and noise. The values for 10 and 60 minutes follow the training logs in weights/HISTORY.md. Those for
# the first minute are estimates, since no log has it.
EXPECTED_CURVES: Mapping[tuple[str, str], ExpectedCurve] = {
    ("paper", "random-pixel"): ExpectedCurve((2.5, 3.4, 4.0), 1200),
    ("photo", "gaussian"): ExpectedCurve((7.0, 9.3, 9.7), 450),
}


def plan_lines(job: TrainingJob) -> list[str]:
    """The recipe, the network, the data, the files and the expected curve, a line each. Reads no image.

    Raises ValueError for weights that cannot be begun from."""
    recipe = job.recipe
    length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.minutes:g} minutes"
    low, high = recipe.noise_range
    planned = recipe
    if job.start and not job.continues:
        planned = sized_recipe(recipe, weights.read(job.start), job.fixed_size)
    config = planned.network_config()
    net = build_network(config, torch.Generator().manual_seed(recipe.seed))
    count = sum(parameter.value.numel() for parameter in parameters(net))
    beside = f"log {job.log.name}, checkpoints {job.checkpoint.name} and {job.constant_checkpoint.name}"
    return [
        f"recipe:  {length} of {recipe.optimizer}, learning rate {recipe.lr:g}, batches of {recipe.batch} "
        f"patches of {recipe.patch} x {recipe.patch}; {recipe.noise} noise from {low:g} to {high:g}",
        f"network: {kind_of(config)}, {count:,} parameters{_start_words(job, planned)}",
        f"data:    {_data_words(job.data)}",
        f"writes:  {job.out}; beside it {beside}",
        f"expect:  {_expectation(recipe)}",
    ]


def _start_words(job: TrainingJob, planned: Recipe) -> str:
    if not job.start:
        return ""
    return f", from {job.start}" + (", whose size it has" if planned != job.recipe else "")


def _data_words(data: Sequence[Path]) -> str:
    """The data, by the names of files alone."""
    return ", ".join(map(_source_words, data)) or "synthetic images (dead leaves)"


def _source_words(path: Path) -> str:
    if not path.is_dir():
        return f"pairs in {path}"
    images = {file for file in path.iterdir() if is_image_name(file.name)}
    return f"{len(images - earlier_results(images))} images in {path}"


def _expectation(recipe: Recipe) -> str:
    curve = EXPECTED_CURVES.get((recipe.network, recipe.noise))
    if curve is None:
        return (
            "estimate: the held-out PSNR starts below the noisy input's and passes it within minutes; there is "
            "no measured curve for this network and noise"
        )
    values = zip(EXPECTED_MINUTES, curve.gains, strict=True)
    points = ", ".join(f"{gain:+.1f} dB after {minutes} min" for minutes, gain in values)
    return (
        f"estimate: the held-out PSNR starts some dB below the noisy input's, and is over it by about {points}, "
        f"at {curve.steps_a_minute:,} steps a minute on two idle cores; a busy or slower machine, or a larger "
        "network, takes longer"
    )
