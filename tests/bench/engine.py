"""How fast the hand-written networks are beside torch.nn's: `python -m tests.bench.engine`.

Each pair of ways runs in turns, so that a machine whose speed drifts treats both alike. The table gives medians
in megapixels per second, and the median of the pairs' ratios: above 1, ours is the faster.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.layers import MSE, Layer
from engine.networks import PaperSpec, PhotoSpec, build_network


def paper(hidden: int = 256) -> nn.Module:
    """The paper network, geometry "weights", as torch.nn has it."""
    return nn.Sequential(
        nn.Conv2d(3, hidden, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(hidden, hidden, 2, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(hidden, 3, 2, 2),
        nn.Sigmoid(),
    )


class Sum(nn.Module):
    """x plus what the layers make of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


def photo(channels: tuple[int, ...] = (32, 64, 128), blocks: tuple[int, ...] = (1, 1, 3, 1, 1)) -> nn.Module:
    """The photo network as torch.nn has it."""

    def conv(given: int, made: int) -> nn.Module:
        return nn.Conv2d(given, made, 3, padding=1, bias=False)

    def level(channels: tuple[int, ...], blocks: tuple[int, ...]) -> list[nn.Module]:
        width, *lower = channels
        residuals = [Sum(conv(width, width), nn.ReLU(), conv(width, width)) for _ in range(blocks[0])]
        if not lower:
            return residuals
        down = nn.Conv2d(width, lower[0], 2, 2, bias=False)
        up = nn.ConvTranspose2d(lower[0], width, 2, 2, bias=False)
        after = [Sum(conv(width, width), nn.ReLU(), conv(width, width)) for _ in range(blocks[-1])]
        return [*residuals, Sum(down, *level(tuple(lower), blocks[1:-1]), up), *after]

    body = level(channels, blocks)
    return Sum(nn.PixelUnshuffle(2), conv(12, channels[0]), *body, conv(channels[0], 12), nn.PixelShuffle(2))


def ours(net: Layer, x: Tensor, train: bool) -> Callable[[], object]:
    """One forward, or one training step without the optimiser."""
    mse, target = MSE(), torch.zeros_like(x)

    def step() -> object:
        y = net.forward(x, train=train)
        return net.backward(mse.backward(y, target)) if train else y

    return step


def theirs(net: nn.Module, x: Tensor, dtype: torch.dtype, train: bool) -> Callable[[], object]:
    """The same by torch.nn, in channels_last, which measured the better of its layouts; bfloat16 by autocast."""
    net = net.to(memory_format=torch.channels_last)
    x = x.permute(0, 3, 1, 2)
    target = torch.zeros_like(x)

    def step() -> object:
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
            torch.set_grad_enabled(train),
        ):
            y = net(x)
            if train:
                net.zero_grad()
                nn.functional.mse_loss(y, target).backward()
        return y

    return step


def compare(a: Callable[[], object], b: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Median seconds of a and of b, and the median of b's over a's, after one run each to warm up."""
    a(), b()
    pairs = [(_seconds(a), _seconds(b)) for _ in range(repeats)]
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return medians[0], medians[1], statistics.median(second / first for first, second in pairs)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{platform.machine()} {' '.join(known)}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    print(f"{_processor()}\n\n| network | work | type | ours, Mpx/s | torch.nn, Mpx/s | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, spec, module, sizes in (
        ("paper, hidden 256", PaperSpec(), paper, ((1, 512), (8, 32))),
        ("photo, S", PhotoSpec(), photo, ((1, 512), (8, 128))),
    ):
        for (count, side), train in zip(sizes, (False, True), strict=True):
            for dtype in (torch.float32, torch.bfloat16):
                x = torch.rand(count, side, side, 3)
                mine = ours(build_network(spec, compute=dtype), x, train)
                a, b, ratio = compare(mine, theirs(module(), x, dtype, train), given.repeats)
                work = f"{'step' if train else 'forward'}, {count} x {side}²"
                speeds = " | ".join(f"{count * side * side / 1e6 / seconds:.2f}" for seconds in (a, b))
                print(f"| {name} | {work} | {str(dtype)[6:]} | {speeds} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
