"""Training on one's own shots: watches held-out scenes, keeps the best weights, and stops in time."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.adaptation.held_out import JudgedScene, errors
from engine.adaptation.quality import Estimate, gain
from engine.adaptation.result import CurvePoint
from engine.data.sources import BatchSource
from engine.layers import Module, drop_packed_weights, parameters
from engine.training.loop import Diverged, TrainState, train

# Times that held-out scenes are looked at, spread evenly over a run.
LOOKS = 12
# In a run of so many minutes, a look is followed by training for this many times as long as the look took.
TRAINING_PER_LOOK = 4.0
# Looks without a rise after which training ends, and the least rise, in dB.
PATIENCE = 4
MIN_RISE = 0.01


@dataclass(frozen=True)
class Look:
    """What a look at the held-out scenes showed. done: part of the run, 0 to 1. loss: of the last step."""

    point: CurvePoint
    done: float
    loss: float


@dataclass(frozen=True)
class Trained:
    """The outcome: a curve, and the steps and minutes that were run. The best weights are in the network.

    stopped: whether it was told to end.
    """

    curve: tuple[CurvePoint, ...]
    steps: int
    minutes: float
    stopped: bool = False


class Adapter:
    """One training run.

    scenes: held out, small parts of them. limits: their range of brightness. stopping: whether to end now.
    check: called between steps. The time that it takes does not count. clock: the time that counts, in seconds.
    """

    def __init__(
        self,
        state: TrainState,
        source: BatchSource,
        scenes: Sequence[JudgedScene],
        limits: tuple[float, float],
        on_look: Callable[[Look], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state, self.source, self.scenes, self.limits = state, source, scenes, limits
        self.on_look, self.stopping, self.check, self.clock = on_look, stopping, check, clock
        # In `check`, in seconds.
        self.waited = 0.0
        self.before = [scene.denoised(state.net) for scene in scenes]
        self.curve: list[CurvePoint] = []
        self.best: list[Tensor] = []
        self.best_gain = float("-inf")
        self.looks_since_best = 0
        # The part of the run, and the minute, from which on the next look is due.
        self.next_part = self.next_minute = 0.0
        self.start = clock()

    @property
    def minutes(self) -> float:
        """Since the start, without waiting."""
        return (self.clock() - self.start - self.waited) / 60

    def run(self) -> Trained:
        """Train. A training that diverges ends, and what was best before stays the best."""
        self._look(float("nan"))
        try:
            with closing(train(self.state, self.source, self._progress)) as steps:
                for step in steps:
                    if self._is_due(self._part(step.step)):
                        self._look(step.loss)
        except Diverged:
            # Nothing better can follow. The curve shows where it ended.
            pass
        for parameter, value in zip(parameters(self.state.net), self.best, strict=True):
            parameter.layer.params[parameter.key] = value
        drop_packed_weights(self.state.net)
        return Trained(tuple(self.curve), self.state.step, self.minutes, self.stopping())

    def _progress(self, step: int) -> float:
        """What the training loop asks: 1 ends it."""
        began = self.clock()
        self.check()
        self.waited += self.clock() - began
        ends = self.stopping() or self.looks_since_best >= PATIENCE
        return 1.0 if ends else self._part(step)

    def _is_due(self, part: float) -> bool:
        """Whether to look at the held-out scenes now. Runs of a number of steps do not depend on time."""
        has_time = bool(self.state.recipe.steps) or self.minutes >= self.next_minute
        return part >= 1 or (part >= self.next_part and has_time)

    def _part(self, step: int) -> float:
        recipe = self.state.recipe
        return min(1.0, step / recipe.steps if recipe.steps else self.minutes / recipe.minutes)

    def _look(self, loss: float) -> None:
        """Judge the averaged weights."""
        began, part = self.minutes, self._part(self.state.step)
        ema, net = self.state.ema, self.state.net
        ema.swap()
        try:
            found = self._gain(net)
            if found.value > self.best_gain + (MIN_RISE if self.best else 0.0):
                self.looks_since_best = 0
            else:
                self.looks_since_best += 1
            if found.value > self.best_gain:
                self.best_gain = found.value
                self.best = [parameter.value.clone() for parameter in parameters(net)]
        finally:
            ema.swap()
            drop_packed_weights(net)
        self.next_part = part + 1 / LOOKS
        self.next_minute = self.minutes + TRAINING_PER_LOOK * (self.minutes - began)
        self.curve.append(CurvePoint(self.minutes, self.state.step, found))
        if self.on_look:
            self.on_look(Look(self.curve[-1], part, loss))

    def _gain(self, net: Module) -> Estimate:
        """Over the noisy shots."""
        after = [scene.denoised(net) for scene in self.scenes]
        if not all(bool(torch.isfinite(image).all()) for images in after for image in images):
            return Estimate(float("-inf"), float("-inf"), float("-inf"))
        return gain(errors(self.scenes, [self.before, after], self.limits), 1)
