"""Group `scaling`: time and memory by image size, for network S. There is no other program.

Each size runs in its own process, so that its peak of memory is its own. The memory reported is that peak without
the image, its result, and the peak of a process that denoises one patch.
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
# The image and its result: float32, three channels.
BYTES_PER_PIXEL = 2 * 3 * 4


def rows(options: Options, sizes: Sequence[tuple[int, int]] = SIZES, name: str = "S") -> Iterator[Row]:
    """sizes: (height, width) in pixels. name: of the network."""
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
    """Median seconds for one image, and the peak memory of this process in bytes."""
    net = network(NETWORKS[name], PRECISIONS[precision])
    given = torch.full((height, width, 3), 0.5)
    seconds = interleaved({"ours": lambda: denoise_image(net, given)}, rounds)["ours"]
    return median(seconds), peak_bytes()


def peak_bytes() -> int:
    """The peak memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux, getrusage hands the parent's peak down to the child.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _alone(name: str, height: int, width: int, precision: str, options: Options) -> tuple[float, int]:
    """`measure` in a new process."""
    arguments = [name, str(height), str(width), precision, str(options.rounds), str(options.threads)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.scaling", *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds, peak = json.loads(done.stdout)
    return float(seconds), int(peak)


def main(args: Sequence[str]) -> None:
    """Prints the result of `measure` as JSON. The last argument is the number of threads."""
    name, height, width, precision, rounds, threads = args
    torch.set_num_threads(int(threads))
    print(json.dumps(measure(name, int(height), int(width), precision, int(rounds))))


if __name__ == "__main__":
    main(sys.argv[1:])
