"""The loop: draw, forward, backward, step, report. It yields; the job prints and saves."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from engine.data.rng import seeded_generator
from engine.data.sources import Batch, PairSource, ValidationSet
from engine.layers import MSE, Arena, Layer, parameters
from engine.models.networks import build_network
from engine.optim import SGD, Adam, LRSchedule, Optimizer, ParameterEMA, clip_gradients, muon_with_adam
from engine.system.runtime import use_cores
from engine.training.config import Recipe

# An exploding loss: its running mean above this many times its lowest, after so many steps; one that may be.
EXPLODED, SETTLING, RISING = 10.0, 50, 2.0
# Batches drawn before they are needed, and steps whose losses are left unread on a GPU.
AHEAD, UNREAD = 2, 50


class Diverged(ValueError):
    """Training went wrong; the message says at which step, and what to change."""


@dataclass(frozen=True)
class Progress:
    """After a step. pixels: seen since the start of the run; lr: as used in this step.

    loss: of this step; on a GPU, of the last step whose loss was read, up to `UNREAD` steps ago.
    """

    step: int
    loss: float
    lr: float
    pixels: int


@dataclass
class DivergenceMonitor:
    """Notices a loss that is no number or that grows without end."""

    mean: float = 0.0
    lowest: float = math.inf
    steps: int = 0

    @property
    def rising(self) -> bool:
        """Whether the loss is well above its lowest: no cause to stop, but what is saved now may be no good."""
        return self.mean > RISING * self.lowest

    def see(self, loss: float, step: int, recipe: Recipe) -> None:
        """Raises Diverged."""
        self.steps += 1
        self.mean += (loss - self.mean) / min(self.steps, SETTLING)
        if not math.isfinite(loss):
            what = f"the loss at step {step} is {loss}"
        elif self.steps > SETTLING and self.mean > EXPLODED * self.lowest:
            what = f"by step {step} the loss has risen from {self.lowest:.3g} to {self.mean:.3g}"
        else:
            if self.steps >= SETTLING:
                self.lowest = min(self.lowest, self.mean)
            return
        clip = f"{recipe.clip:g}" if recipe.clip else "none"
        raise Diverged(
            f"{what}: lower lr (it is {recipe.lr:g}) or clip the gradient's norm (clip is {clip});"
            " the last good weights are kept"
        )


@dataclass
class Training:
    """All that a step reads and changes."""

    recipe: Recipe
    compute: torch.dtype
    device: torch.device
    net: Layer
    optimiser: Optimizer
    average: ParameterEMA
    schedule: LRSchedule
    step: int = 0
    pixels: int = 0
    watch: DivergenceMonitor = field(default_factory=DivergenceMonitor)
    loss: float = math.nan
    unread: list[tuple[int, Tensor]] = field(default_factory=list)

    def note(self, step: int, loss: Tensor) -> None:
        """Take in a step's loss. Raises Diverged, on a GPU up to `UNREAD` steps late.

        Reading a number waits for a GPU to finish, and so a step for the one before: there it is done rarely.
        """
        self.unread.append((step, loss))
        if loss.device.type == "cpu" or self.watch.steps == 0 or len(self.unread) >= UNREAD:
            self.read_losses()

    def read_losses(self) -> None:
        """Look at the losses not yet read. Raises Diverged: then what was saved is good, and not what is here."""
        unread, self.unread = self.unread, []
        losses = torch.stack([loss for _, loss in unread]).tolist() if unread else []
        for (step, _), self.loss in zip(unread, losses, strict=True):
            self.watch.see(self.loss, step, self.recipe)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a resumed run needs, by name. Raises Diverged.

        Chance has no state: a step's batch comes from the seed and the step's number.
        """
        self.read_losses()
        weights = {f"weights.{parameter.name}": parameter.value for parameter in parameters(self.net)}
        watch = torch.tensor([self.watch.mean, self.watch.lowest, self.watch.steps], dtype=torch.float64)
        return weights | self.optimiser.state() | self.average.state() | {"watch": watch}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Undoes `state`. Raises KeyError naming what is missing."""
        for parameter in parameters(self.net):
            parameter.value.copy_(state[f"weights.{parameter.name}"])
        self.optimiser.load_state(state)
        self.average.load_state(state)
        mean, lowest, steps = state["watch"].tolist()
        self.watch = DivergenceMonitor(mean, lowest, int(steps))


def begin(
    recipe: Recipe,
    compute: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    start: Layer | None = None,
) -> Training:
    """A fresh network, on a device, and all that trains it. start: one of its spec, to copy weights from.

    Raises ValueError for a patch that does not fit.
    """
    rng = torch.Generator().manual_seed(recipe.seed)
    net = build_network(recipe.spec(), rng, compute)
    if recipe.patch % net.stride:
        raise ValueError(f"patch must be a multiple of the network's stride, {net.stride}; got {recipe.patch}")
    # Copied: a run changes its weights in place.
    for parameter, given in zip(parameters(net), parameters(start or net), strict=True):
        parameter.layer.params[parameter.key] = given.value.to(device, copy=True)
    return Training(
        recipe,
        compute,
        torch.device(device),
        net,
        _optimiser(recipe, net),
        ParameterEMA(parameters(net), recipe.average),
        LRSchedule(recipe.warmup, recipe.decay),
    )


def train(
    training: Training, source: PairSource, done: Callable[[int], float]
) -> Generator[Progress, None, None]:
    """Noise2Noise: learn from two noisy views of one scene, never from a clean target.

    done: the part of the run, 0 to 1, that lies behind after so many steps; at 1 the run ends. Updates
    `training` in place, one step for each item yielded. The loss settles near the variance of the target's
    noise, not near 0: that noise cannot be predicted. The next batches are drawn in another thread, which
    ends with this generator, and whose errors are raised here. Raises Diverged: on a CPU before the weights are
    touched; on a GPU a little later, when the last good weights are those on disk.
    A batch goes through the network whole: in parts of four, two and one patches, gradients summed, a step took
    1.1, 1.3 and 1.8 times as long, and making activations again instead of keeping them 1.3 times.
    Source: Lehtinen et al., "Noise2Noise", ICML 2018, sections 2 and 3.1.
    """
    recipe, net, mse, arena = training.recipe, training.net, MSE(), Arena()
    trained = list(parameters(net))
    if done(training.step) >= 1:
        return
    with _drawn_ahead(training, source) as next_batch:
        while (part := done(training.step)) < 1:
            step = training.step + 1
            noisy, target, weight = next_batch()
            with arena.used():
                predicted = net.forward(noisy, train=True)
                training.note(step, mse.forward(predicted, target, weight))
                net.backward(mse.backward(predicted, target, weight))

            if recipe.clip:
                clip_gradients(trained, recipe.clip)
            factor = training.schedule.factor(step, part)
            training.optimiser.step(factor)
            training.average.update()
            training.step = step
            training.pixels += noisy.shape[0] * noisy.shape[1] * noisy.shape[2]
            yield Progress(step, training.loss, recipe.lr * factor, training.pixels)
    training.read_losses()


@contextmanager
def _drawn_ahead(training: Training, source: PairSource) -> Iterator[Callable[[], Batch]]:
    """A function that gives the batches of the coming steps in turn, drawn in a thread meanwhile.

    A batch depends on the seed and its step alone: those that nobody asked for are drawn again by a resumed run.
    """
    recipe, device = training.recipe, training.device

    def draw(step: int) -> Batch:
        batch = source.draw(step, recipe.batch, seeded_generator(recipe.seed, step))
        return Batch(*(_moved(tensor, device) for tensor in batch))

    with ThreadPoolExecutor(1, "draw") as drawer:
        _use_one_core(drawer)
        steps = count(training.step + 1)
        ahead = deque(drawer.submit(draw, next(steps)) for _ in range(AHEAD))

        def next_batch() -> Batch:
            ahead.append(drawer.submit(draw, next(steps)))
            return ahead.popleft().result()

        try:
            yield next_batch
        finally:
            for batch in ahead:
                batch.cancel()


def _use_one_core(drawer: ThreadPoolExecutor) -> None:
    """For what is computed there, and no fewer than before for what is computed here."""
    cores = torch.get_num_threads()
    drawer.submit(use_cores, 1).result()
    torch.set_num_threads(cores)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; a GPU copies it from pinned memory, while it does other things."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def validate(training: Training, images: ValidationSet) -> float:
    """PSNR in dB of the averaged weights on held-out images, mean over images.

    With noisy references it is the estimate for the clean ones: the reference's own noise, independent of the
    output's, adds its variance to the error, and is taken off. One number for all images then.
    """
    training.average.swap()
    try:
        error = _errors(training, images)
    finally:
        training.average.swap()
    if images.reference_noise:
        error = (error.mean() - images.reference_noise).clamp(min=1e-10)
    return float((-10 * error.clamp(min=1e-10).log10()).mean())


def _errors(training: Training, images: ValidationSet, batch: int = 8) -> Tensor:
    """Mean square error of each image."""
    errors = []
    for start in range(0, len(images.noisy), batch):
        noisy = images.noisy[start : start + batch].to(training.device)
        output = training.net.forward(noisy).clamp(0, 1)
        reference = images.reference[start : start + batch].to(training.device)
        errors.append((output - reference).square().mean((1, 2, 3)))
    return torch.cat(errors)


def _optimiser(recipe: Recipe, net: Layer) -> Optimizer:
    if recipe.optimiser == "sgd":
        return SGD(parameters(net), recipe.lr)
    if recipe.optimiser == "adam":
        return Adam(parameters(net), recipe.lr)
    return muon_with_adam(net, recipe.lr, recipe.adam_lr, recipe.weight_decay)
