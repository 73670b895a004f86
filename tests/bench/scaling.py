"""Group `scaling`: time and memory against the number of pixels, network S; there is no peer.

Each size runs in a process of its own, so that its peak of memory is its own. From that peak are taken off the
image, its result, and the peak of a process that denoises one patch: what remains is the work's.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch

from engine.inference.denoise import denoise_image
from engine.inference.tiling import GRID

from .rows import PRECISIONS, Options, Row
from .subjects import NETWORKS, network
from .timing import interleaved

SIZES = ((64, 64), (256, 256), (1024, 1024), (2048, 2048), (4000, 6000))
ROOT = Path(__file__).parent.parent.parent
# float32, three channels; the image and its result.
BYTES_PER_PIXEL = 2 * 3 * 4


def rows(options: Options, sizes: Sequence[tuple[int, int]] = SIZES, name: str = "S") -> Iterator[Row]:
    """sizes: (height, width) in pixels; name: of the network."""
    for precision in options.precisions:
        base: int | None = None
        for height, width in sizes:
            case = f"{name}, {width} x {height}"
            if height * width > options.largest * 1e6 or not options.wants(case):
                continue
            if base is None:
                base = _alone(name, GRID, GRID, precision, options)[1]
            seconds, peak = _alone(name, height, width, precision, options)
            memory = max(0, peak - base - BYTES_PER_PIXEL * (height * width - GRID**2))
            yield Row(
                "scaling",
                case,
                precision,
                height * width / 1e6 / seconds,
                None,
                None,
                "Mpx/s",
                None,
                {"seconds": seconds, "memory_mib": memory / 2**20},
            )


def measure(name: str, height: int, width: int, precision: str, rounds: int) -> tuple[float, int]:
    """Median seconds for one image, and the most memory that this process ever had, in bytes."""
    net = network(NETWORKS[name], PRECISIONS[precision])
    given = torch.full((height, width, 3), 0.5)
    seconds = interleaved({"ours": lambda: denoise_image(net, given)}, rounds)["ours"]
    return median(seconds), peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    told = Path("/proc/self/status")
    if told.exists():
        # getrusage would do, but on Linux it hands the parent's peak down to the child.
        line = next(line for line in told.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _alone(name: str, height: int, width: int, precision: str, options: Options) -> tuple[float, int]:
    """`measure` in a fresh process."""
    told = [name, str(height), str(width), precision, str(options.rounds), str(options.threads)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.scaling", *told],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds, peak = json.loads(done.stdout)
    return float(seconds), int(peak)


def main(args: Sequence[str]) -> None:
    """Print what `measure` gives, as JSON; the last argument is the number of threads."""
    name, height, width, precision, rounds, threads = args
    torch.set_num_threads(int(threads))
    print(json.dumps(measure(name, int(height), int(width), precision, int(rounds))))


if __name__ == "__main__":
    main(sys.argv[1:])
