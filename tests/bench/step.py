"""Group `step`: compares a training step with torch.nn and torch.optim, and with the plain path.

A step is forward, loss, backward, clipping and optimiser: Adam for the photo networks, SGD for the paper's.
Neither side averages the weights, because torch.nn does not.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from engine.layers import MSE, Arena, Module, parameters
from engine.models.networks import AutoencoderConfig, NetworkConfig
from engine.optim import SGD, Adam, Optimizer, clip_gradients

from .peers import LAYOUTS
from .plain import plainly
from .rows import PRECISIONS, Options, Row, check_equal, compared
from .subjects import NETWORKS, network, on
from .timing import fastest, interleaved
from .torch_copy import TorchCopy, torch_copy

# Patches in a batch and their side in pixels, by network.
BATCHES = {"S": (8, 128), "M": (8, 128), "L": (8, 128), "paper": (8, 32)}
# So small that the weights hardly change, and the last round does the same work as the first.
LR = 1e-6
BETAS = (0.9, 0.99)
# Largest norm of the gradient.
CLIP = 1.0
# Gradients pass through every layer twice and are rounded each time. Rounding can also move a ReLU's input across
# zero. In a network as small as a test's, this changes a gradient by a hundredth.
SLACK = {"float32": 200.0, "bfloat16": 5.0}


def rows(
    options: Options,
    networks: Mapping[str, NetworkConfig] = NETWORKS,
    batches: Mapping[str, tuple[int, int]] = BATCHES,
) -> Iterator[Row]:
    """batches: patches and their side in pixels, by the network's name."""
    for name, case, count, side, precision in cases(options, batches):
        yield from _rows(case, networks[name], count, side, precision, options)


def cases(options: Options, batches: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, str, int, int, str]]:
    """The chosen cases: the network's name, the case in words, patches, their side in pixels, the precision."""
    for name, (count, side) in batches.items():
        case = f"{name}, {count} x {side}²"
        for precision in options.precisions:
            if options.wants(case):
                yield name, case, count, side, precision


def _rows(
    case: str, spec: NetworkConfig, count: int, side: int, precision: str, options: Options
) -> Iterator[Row]:
    rng = torch.Generator().manual_seed(0)
    clean = torch.rand(count, side, side, 3, generator=rng)
    device = options.device
    x, target = ((clean + 0.1 * torch.randn(clean.shape, generator=rng)).to(device) for _ in range(2))
    sgd = isinstance(spec, AutoencoderConfig)
    ours, definition = (Ours(on(network(spec, PRECISIONS[precision]), device), x, target, sgd) for _ in range(2))
    theirs = {
        way: Theirs(torch_copy(on(network(spec), device)), x, target, sgd, layout, precision == "bfloat16")
        for way, layout in LAYOUTS.items()
    }

    ours.gradients()
    plainly(definition.gradients)()
    for mine, plain_one in zip(parameters(ours.net), parameters(definition.net), strict=True):
        check_equal(f"{case}, plain path, {mine.name}", mine.grad, plain_one.grad, precision, SLACK[precision])
    for way, other in theirs.items():
        other.gradients()
        # The torch copy was made from another copy of the network, with the same order of layers.
        layers = [s.layer for s in parameters(ours.net) if s.key == "weight"]
        for layer, (_, module, change) in zip(layers, other.copy.kernels, strict=True):
            check_equal(
                f"{case}, {way}", change(layer.grads["weight"]), module.weight.grad, precision, SLACK[precision]
            )

    best = fastest({way: other.step for way, other in theirs.items()})
    works: dict[str, Callable[[], object]] = {
        "ours": ours.step,
        f"torch.nn {best}": theirs[best].step,
        "plain path": plainly(definition.step),
    }
    seconds = interleaved(works, options.rounds)
    megapixels = count * side * side / 1e6
    for peer in list(works)[1:]:
        yield compared("step", case, precision, megapixels, "Mpx/s", seconds["ours"], seconds[peer], peer)


class Ours:
    """One of our networks, with its optimiser and data."""

    def __init__(self, net: Module, x: Tensor, target: Tensor, sgd: bool) -> None:
        self.net, self.x, self.target, self.mse = net, x, target, MSE()
        self.parameters, self.arena = list(parameters(net)), Arena()
        self.optimiser: Optimizer = SGD(self.parameters, LR) if sgd else Adam(self.parameters, LR, BETAS)

    def gradients(self) -> None:
        """Forward, loss, backward."""
        with self.arena.used():
            y = self.net.forward(self.x, train=True)
            self.loss = float(self.mse.forward(y, self.target))
            self.net.backward(self.mse.backward(y, self.target))

    def step(self) -> None:
        """Gradients, clipping and the optimiser."""
        self.gradients()
        clip_gradients(self.parameters, CLIP)
        self.optimiser.step()
        _wait(self.x)


class Theirs:
    """The same with torch.nn, autograd and torch.optim. bfloat16 runs with autocast."""

    def __init__(
        self,
        made: TorchCopy,
        x: Tensor,
        target: Tensor,
        sgd: bool,
        layout: torch.memory_format,
        autocast: bool,
    ) -> None:
        self.copy, self.autocast = made, autocast
        made.module.to(memory_format=layout)
        self.x, self.target = (t.permute(0, 3, 1, 2).contiguous(memory_format=layout) for t in (x, target))
        self.parameters = list(made.module.parameters())
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.SGD(self.parameters, LR)
            if sgd
            else torch.optim.Adam(self.parameters, LR, BETAS, fused=True)
        )

    def gradients(self) -> None:
        """Forward, loss, backward."""
        self.optimiser.zero_grad()
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.autocast):
            y = self.copy.module(self.x)
        loss = nn.functional.mse_loss(y.float(), self.target)
        self.loss = loss.item()
        loss.backward()

    def step(self) -> None:
        """Gradients, clipping and the optimiser."""
        self.gradients()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimiser.step()
        _wait(self.x)


def _wait(x: Tensor) -> None:
    """Waits until a GPU has finished."""
    if x.device.type == "cuda":
        torch.cuda.synchronize()
