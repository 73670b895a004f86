"""Optimisers, the learning rate schedule, gradient clipping, and the moving average of the parameters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.layers import Module, Parameter, multiply, parameters


class Optimizer(Protocol):
    """Updates parameters by the gradients of the last backward pass. State: tensors by name, for checkpoints."""

    def step(self, factor: float = 1.0) -> None:
        """Update the parameters once. factor: 0 to 1, multiplies the learning rate; see LRSchedule."""

    def state(self) -> dict[str, Tensor]:
        """The tensors that a resumed run needs."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state. Raises KeyError naming a tensor that is missing."""


class SGD:
    """Stochastic gradient descent: subtract lr times the gradient.

    Source: Robbins & Monro, "A stochastic approximation method", 1951.
    """

    def __init__(self, parameters: Iterable[Parameter], lr: float) -> None:
        self.parameters, self.lr = list(parameters), lr

    def step(self, factor: float = 1.0) -> None:
        for parameter in self.parameters:
            parameter.value.sub_(parameter.grad, alpha=self.lr * factor)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """There is no state."""


class Adam:
    """Steps scaled by running moments of the gradient. Source: Kingma & Ba, ICLR 2015, algorithm 1.

    betas: decay of the first and the second moment. β₂ is 0.99 by default: with noisy targets it measured better
    than 0.999.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        self.parameters, self.lr, self.betas, self.eps = list(parameters), lr, betas, eps
        self.steps = 0
        self.first = [torch.zeros_like(parameter.value) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter.value) for parameter in self.parameters]

    def step(self, factor: float = 1.0) -> None:
        """Both moments are corrected for their start at zero."""
        self.steps += 1
        (b1, b2), t = self.betas, self.steps
        for parameter, first, second in zip(self.parameters, self.first, self.second, strict=True):
            first.lerp_(parameter.grad, 1 - b1)
            second.mul_(b2).addcmul_(parameter.grad, parameter.grad, value=1 - b2)
            scale = (second / (1 - b2**t)).sqrt_().add_(self.eps)
            parameter.value.addcdiv_(first, scale, value=-self.lr * factor / (1 - b1**t))

    def state(self) -> dict[str, Tensor]:
        state = {"adam.steps": torch.tensor(self.steps)}
        for parameter, first, second in zip(self.parameters, self.first, self.second, strict=True):
            state |= {f"adam.first.{parameter.name}": first, f"adam.second.{parameter.name}": second}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["adam.steps"])
        for parameter, first, second in zip(self.parameters, self.first, self.second, strict=True):
            first.copy_(state[f"adam.first.{parameter.name}"])
            second.copy_(state[f"adam.second.{parameter.name}"])


class Muon:
    """Momentum, orthogonalised: a step moves every direction of a weight matrix by the same length.

    For parameters that are matrices (inputs, outputs). Steps are scaled by sqrt(max(1, outputs / inputs)).
    weight_decay: each step first shrinks the weights by this times the learning rate. Without it, the norm of the
    weights grows, because a step keeps its length even if the gradient is mostly noise. The larger the norm, the
    less a step changes the direction of the weights, so a long run stops learning.
    Sources: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; Loshchilov & Hutter,
    "Decoupled weight decay regularization", ICLR 2019; Liu et al., "Muon is scalable for LLM training", 2025,
    section 2.2.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 0.006,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters, self.lr, self.momentum, self.weight_decay = list(parameters), lr, momentum, weight_decay
        self.velocity = [torch.zeros_like(parameter.value) for parameter in self.parameters]

    def step(self, factor: float = 1.0) -> None:
        for parameter, velocity in zip(self.parameters, self.velocity, strict=True):
            velocity.mul_(self.momentum).add_(parameter.grad)
            ahead = parameter.grad.add(velocity, alpha=self.momentum)
            inputs, outputs = parameter.value.shape
            size = self.lr * factor * max(1.0, outputs / inputs) ** 0.5
            parameter.value.mul_(1 - self.lr * factor * self.weight_decay)
            parameter.value.sub_(orthogonalise(ahead), alpha=size)

    def state(self) -> dict[str, Tensor]:
        return {f"muon.{s.name}": v for s, v in zip(self.parameters, self.velocity, strict=True)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for parameter, velocity in zip(self.parameters, self.velocity, strict=True):
            velocity.copy_(state[f"muon.{parameter.name}"])


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """About the orthogonal factor of a matrix: the same singular vectors, singular values between 0.7 and 1.2.

    Newton-Schulz iteration with the quintic of Jordan et al. 2024, whose steep slope at 0 raises small singular
    values quickly: x <- (a + b xx' + c (xx')²) x. All factors are polynomials in the first xx' and commute, so x
    itself is multiplied twice instead of ten times. This needs float32: xx' holds the squares of the singular
    values, too fine for bfloat16. Even so, it takes half the time of the plain iteration in bfloat16, on a
    processor with bfloat16 products.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    # The smaller of the two Gram matrices is cheaper.
    tall = x.shape[0] > x.shape[1]
    gram = multiply(x.T, x) if tall else multiply(x, x.T)
    factors = gram
    for step in range(steps):
        factor = multiply(gram, gram).mul_(c).add_(gram, alpha=b)
        factor.diagonal().add_(a)
        factors = multiply(factors, factor) if step else factor
        if step < steps - 1:
            gram = multiply(multiply(factor, gram), factor)
    return multiply(x, factors) if tall else multiply(factors, x)


class OptimizerGroup:
    """Several optimisers as one, each with its own parameters."""

    def __init__(self, *optimisers: Optimizer) -> None:
        self.optimisers = optimisers

    def step(self, factor: float = 1.0) -> None:
        for optimiser in self.optimisers:
            optimiser.step(factor)

    def state(self) -> dict[str, Tensor]:
        return {name: value for optimiser in self.optimisers for name, value in optimiser.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for optimiser in self.optimisers:
            optimiser.load_state(state)


def muon_with_adam(net: Module, lr: float, adam_lr: float, weight_decay: float = 0.0) -> OptimizerGroup:
    """Muon with weight decay for the inner matrices; Adam for biases and for the first and the last layer.

    In those layers the directions are colours, and their lengths carry meaning (Jordan et al. 2024).
    """
    every = list(parameters(net))
    ends = (every[0].layer, every[-1].layer)
    inside = [p for p in every if p.value.dim() == 2 and p.layer not in ends]
    rest = [p for p in every if p not in inside]
    return OptimizerGroup(Muon(inside, lr, weight_decay=weight_decay), Adam(rest, adam_lr))


def clip_gradients(parameters: Sequence[Parameter], max_norm: float) -> Tensor:
    """Scale all gradients by one factor so that their norm is at most max_norm. Returns the norm before it.

    No value is read back, so a GPU is not waited for. Source: Pascanu et al., "On the difficulty of
    training recurrent neural networks", ICML 2013, section 3.2.
    """
    norm: Tensor = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
    scale = (max_norm / norm).clamp(max=1)
    for parameter in parameters:
        parameter.grad.mul_(scale)
    return norm


@dataclass(frozen=True)
class LRSchedule:
    """The factor of the learning rate over a run: linear warm-up, constant, then linear decay to 0.

    warmup: in steps. decay: the last part of the run, 0 to 1, over which the factor falls.
    """

    warmup: int = 0
    decay: float = 0.3

    def factor(self, step: int, done: float) -> float:
        """step: counted from 1. done: the part of the run that is done, 0 to 1."""
        rise = min(1.0, step / self.warmup) if self.warmup else 1.0
        fall = min(1.0, (1 - done) / self.decay) if self.decay else 1.0
        return rise * max(0.0, fall)

    def decaying(self, done: float) -> bool:
        """Whether the factor has begun to fall."""
        return 1 - done < self.decay


class ParameterEMA:
    """Exponential moving average of the parameters. Its values are the weights that are saved.

    At first it decays faster than `decay`, so the random start is forgotten. Source: Polyak & Juditsky,
    "Acceleration of stochastic approximation by averaging", 1992; exponential form as commonly used.
    """

    def __init__(self, parameters: Iterable[Parameter], decay: float) -> None:
        self.parameters, self.decay, self.updates = list(parameters), decay, 0
        self.values = [parameter.value.clone() for parameter in self.parameters]

    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for parameter, value in zip(self.parameters, self.values, strict=True):
            value.lerp_(parameter.value, 1 - decay)

    def swap(self) -> None:
        """Exchange the parameters and their average. Call it again before training goes on."""
        for index, parameter in enumerate(self.parameters):
            parameter.layer.params[parameter.key], self.values[index] = self.values[index], parameter.value

    def state(self) -> dict[str, Tensor]:
        values = {f"average.{s.name}": v for s, v in zip(self.parameters, self.values, strict=True)}
        return values | {"average.updates": torch.tensor(self.updates)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.updates = int(state["average.updates"])
        for parameter, value in zip(self.parameters, self.values, strict=True):
            value.copy_(state[f"average.{parameter.name}"])
