"""The training loop: draw, forward, backward, step. It yields after each step, and the trainer does the rest."""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.data.sources import BatchSource, ValidationSet
from engine.layers import MSE, Arena, Module, SubpixelShift, parameters
from engine.models.networks import build_network
from engine.optim import SGD, Adam, LRSchedule, Optimizer, ParameterEMA, clip_gradients, muon_with_adam
from engine.training.batches import drawn_ahead
from engine.training.recipe import Recipe
from engine.training.workers import ALONE, Workers

# The loss has exploded when its running mean is this many times its lowest.
EXPLODED_FACTOR = 10.0
# The loss is rising, and weights are not saved, when its running mean is this many times its lowest.
RISING_FACTOR = 2.0
# Steps of the running mean, and steps before the lowest mean is taken.
SETTLING_STEPS = 50
# On a GPU losses are read back after this many steps.
UNREAD_LOSSES = 50
# Images of a validation batch.
VALIDATION_BATCH = 8
# After this many steps all workers take over worker 0's weights: processors of different kinds round differently.
SYNC_STEPS = 1000


class Diverged(ValueError):
    """The training diverged; the message says at which step, and what to change."""


@dataclass(frozen=True)
class Progress:
    """The result of a step. pixels: seen since the start of the run; lr: the rate of this step.

    loss: of this step; on a GPU, the last one read back, up to `UNREAD_LOSSES` steps ago.
    """

    step: int
    loss: float
    lr: float
    pixels: int


@dataclass
class DivergenceMonitor:
    """Detects a loss that is not a finite number, or that grows without end."""

    mean: float = 0.0
    lowest: float = math.inf
    steps: int = 0

    @property
    def rising(self) -> bool:
        """Whether the loss is well above its lowest: no reason to stop, but weights saved now may be bad."""
        return self.mean > RISING_FACTOR * self.lowest

    def update(self, loss: float, step: int, recipe: Recipe) -> None:
        """Take in the loss of a step. Raises Diverged."""
        self.steps += 1
        self.mean += (loss - self.mean) / min(self.steps, SETTLING_STEPS)
        if not math.isfinite(loss):
            problem = f"the loss at step {step} is {loss}"
        elif self.steps > SETTLING_STEPS and self.mean > EXPLODED_FACTOR * self.lowest:
            problem = f"by step {step} the loss has risen from {self.lowest:.3g} to {self.mean:.3g}"
        else:
            if self.steps >= SETTLING_STEPS:
                self.lowest = min(self.lowest, self.mean)
            return
        clip = f"{recipe.clip:g}" if recipe.clip else "none"
        raise Diverged(
            f"{problem}: lower lr (it is {recipe.lr:g}) or clip the gradient's norm (clip is {clip});"
            " the last good weights are kept"
        )


@dataclass
class TrainState:
    """Everything that a step reads and changes."""

    recipe: Recipe
    compute: torch.dtype
    device: torch.device
    net: Module
    optimizer: Optimizer
    ema: ParameterEMA
    schedule: LRSchedule
    step: int = 0
    pixels: int = 0
    divergence: DivergenceMonitor = field(default_factory=DivergenceMonitor)
    loss: float = math.nan
    unread: list[tuple[int, Tensor]] = field(default_factory=list)

    def record_loss(self, step: int, loss: Tensor) -> None:
        """Take in a step's loss. Raises Diverged, on a GPU up to `UNREAD_LOSSES` steps late.

        Reading a number back synchronises with a GPU, which would then idle between steps. So it is done rarely.
        """
        self.unread.append((step, loss))
        # Untried on a GPU.
        if loss.device.type == "cpu" or self.divergence.steps == 0 or len(self.unread) >= UNREAD_LOSSES:
            self.read_losses()

    def read_losses(self) -> None:
        """Read back the unread losses. Raises Diverged: the weights here are then bad, those on disk are good."""
        unread, self.unread = self.unread, []
        losses = torch.stack([loss for _, loss in unread]).tolist() if unread else []
        for (step, _), self.loss in zip(unread, losses, strict=True):
            self.divergence.update(self.loss, step, self.recipe)

    def is_rising(self) -> bool:
        """Whether the loss is rising, with all losses read back. Raises Diverged."""
        self.read_losses()
        return self.divergence.rising

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that a resumed run needs, by name. Raises Diverged.

        There is no generator state: a step's batch depends on the seed and the step's number alone.
        """
        self.read_losses()
        weights = {f"weights.{parameter.name}": parameter.value for parameter in parameters(self.net)}
        monitor = self.divergence
        watch = torch.tensor([monitor.mean, monitor.lowest, monitor.steps], dtype=torch.float64)
        return weights | self.optimizer.state() | self.ema.state() | {"watch": watch}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Undoes `tensors`. Raises KeyError naming what is missing."""
        for parameter in parameters(self.net):
            parameter.value.copy_(tensors[f"weights.{parameter.name}"])
        self.optimizer.load_state(tensors)
        self.ema.load_state(tensors)
        mean, lowest, steps = tensors["watch"].tolist()
        self.divergence = DivergenceMonitor(mean, lowest, int(steps))


def new_train_state(
    recipe: Recipe,
    compute: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    start: Module | None = None,
) -> TrainState:
    """The state at the start of a run. start: a network of the recipe's kind and size, to copy weights from.

    Raises ValueError for a patch that does not fit.
    """
    rng = torch.Generator().manual_seed(recipe.seed)
    net = build_network(recipe.network_config(), rng, compute)
    if recipe.patch % net.stride:
        raise ValueError(f"patch must be a multiple of the network's stride, {net.stride}; got {recipe.patch}")
    # Copied, as training changes the weights in place.
    for parameter, given in zip(parameters(net), parameters(start or net), strict=True):
        parameter.layer.params[parameter.key] = given.value.to(device, copy=True)
    return TrainState(
        recipe,
        compute,
        torch.device(device),
        net,
        _new_optimizer(recipe, net),
        ParameterEMA(parameters(net), recipe.average),
        LRSchedule(recipe.warmup, recipe.decay),
    )


def train(
    state: TrainState, source: BatchSource, progress: Callable[[int], float], workers: Workers = ALONE
) -> Generator[Progress, None, None]:
    """Noise2Noise: learn from two noisy views of one scene, never from a clean target.

    progress: the part of the run, 0 to 1, that is done after a number of steps; at 1 the run ends. Updates
    `state` in place, one step for each item yielded. The loss settles near the variance of the target's noise,
    not near 0: that noise cannot be predicted. The next batches are drawn in another thread, which ends with this
    generator; its errors are raised here. Raises Diverged: on a CPU before the weights are changed; on a GPU a
    little later, when the last good weights are those on disk. Raises WorkerLost before the weights are changed.
    workers: each of them calls this function with an equal state and the same values of `progress`.
    A batch goes through the network whole. In parts of four, two and one patches, with summed gradients, a step
    took 1.1, 1.3 and 1.8 times as long; computing activations again instead of keeping them took 1.3 times.
    Source: Lehtinen et al., "Noise2Noise", ICML 2018, sections 2 and 3.1.
    """
    recipe, net, mse, arena = state.recipe, state.net, MSE(), Arena()
    mover = SubpixelShift()
    trained = list(parameters(net))
    exchange = workers.exchange(trained)
    if progress(state.step) >= 1:
        return
    with drawn_ahead(source, recipe, state.step + 1, state.device, workers, Diverged) as next_share:
        while (part := progress(state.step)) < 1:
            step = state.step + 1
            (noisy, target, weight, shift), pixels = next_share()
            with arena.used():
                predicted = net.forward(noisy, train=True)
                moved = predicted if shift is None else mover.forward(predicted, shift)
                exchange.start(mse.forward(moved, target, weight))
                gradient = mse.backward(moved, target, weight)
                net.backward(gradient if shift is None else mover.backward(gradient, shift))
            state.record_loss(step, exchange.finish())

            if recipe.clip:
                clip_gradients(trained, recipe.clip)
            factor = state.schedule.factor(step, part)
            state.optimizer.step(factor)
            if step % SYNC_STEPS == 0:
                workers.copy_from_first(parameter.value for parameter in trained)
            state.ema.update()
            state.step = step
            state.pixels += pixels
            yield Progress(step, state.loss, recipe.lr * factor, state.pixels)
    state.read_losses()


def validate(state: TrainState, images: ValidationSet) -> float | None:
    """PSNR in dB of the averaged weights on held-out images, mean over images.

    With noisy references it estimates the PSNR against clean ones: the reference's noise is independent of the
    output, so its variance adds to the error and is subtracted. There is then one number for all images; None if
    the rest is not above 0, as the error is less than the images can show.
    """
    state.ema.swap()
    try:
        error = _errors(state, images)
    finally:
        state.ema.swap()
    return _psnr(error, images.reference_noise)


def noisy_psnr(images: ValidationSet) -> float | None:
    """PSNR in dB of the noisy images themselves, measured as `validate` measures the network's."""
    error = (images.noisy.clamp(0, 1) - images.reference).square().mean((1, 2, 3))
    return _psnr(error, images.reference_noise)


def _psnr(error: Tensor, reference_noise: float) -> float | None:
    """error: mean square of each image."""
    if reference_noise:
        error = error.mean() - reference_noise
        if float(error) <= 0:
            return None
    return float((-10 * error.clamp(min=1e-10).log10()).mean())


def _errors(state: TrainState, images: ValidationSet) -> Tensor:
    """Mean square error of each image."""
    errors = []
    for start in range(0, len(images.noisy), VALIDATION_BATCH):
        noisy = images.noisy[start : start + VALIDATION_BATCH].to(state.device)
        output = state.net.forward(noisy).clamp(0, 1)
        reference = images.reference[start : start + VALIDATION_BATCH].to(state.device)
        errors.append((output - reference).square().mean((1, 2, 3)))
    return torch.cat(errors)


def _new_optimizer(recipe: Recipe, net: Module) -> Optimizer:
    if recipe.optimizer == "sgd":
        return SGD(parameters(net), recipe.lr)
    if recipe.optimizer == "adam":
        return Adam(parameters(net), recipe.lr)
    return muon_with_adam(net, recipe.lr, recipe.adam_lr, recipe.weight_decay)
