"""The command: `python -m tests.bench --help`."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from . import denoisers, forward, layer, scaling, service, sizing, step, workers
from .machine import default_threads, precisions, processor
from .rows import Group, Options, ResultsDiffer, table

GROUPS: Mapping[str, Group] = {
    "layer": layer.rows,
    "forward": forward.rows,
    "step": step.rows,
    "workers": workers.rows,
    "denoisers": denoisers.rows,
    "service": service.rows,
    "scaling": scaling.rows,
    "sizing": sizing.rows,
}


# Groups that can run on a GPU.
ON_A_GPU = ["forward", "step"]


def main(args: Sequence[str] | None = None, groups: Mapping[str, Group] = GROUPS) -> int:
    """Measures and prints. Returns 1 if two programs give different results."""
    flags = _parser(groups).parse_args(args)
    if flags.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda needs a GPU, and torch finds none", file=sys.stderr)
        return 1
    torch.set_num_threads(flags.threads)
    types = tuple(flags.precision or precisions(flags.device))
    options = Options(
        *(flags.rounds, flags.threads, types, flags.only, flags.images, flags.count, flags.largest),
        flags.device,
    )
    asked = flags.group or (ON_A_GPU if flags.device == "cuda" else list(groups))
    chosen = {name: groups[name] for name in groups if name in asked}
    try:
        _print_json(chosen, options) if flags.json else _print_tables(chosen, options)
    except ResultsDiffer as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _print_json(groups: Mapping[str, Group], options: Options) -> None:
    rows = [row.as_dict() for measure in groups.values() for row in measure(options)]
    print(json.dumps({"processor": processor(options.device), "rows": rows}, ensure_ascii=False))


def _print_tables(groups: Mapping[str, Group], options: Options) -> None:
    print(f"{processor(options.device)}; medians of {options.rounds} rounds", flush=True)
    for name, measure in groups.items():
        print(f"\n## {name}\n", flush=True)
        for line in table(measure(options)):
            print(line, flush=True)


def _parser(groups: Mapping[str, Group]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Compares the speed of this project with other software. At a ratio above 1, ours is faster.",
        epilog="`pip install .[bench]` installs the other software. Missing packages are skipped.",
    )
    add = parser.add_argument
    add("--group", action="append", choices=list(groups), help="run only this group; can be repeated")
    add("--only", default="", metavar="TEXT", help='run only cases that contain this text, such as "M, 512"')
    add(
        "--precision",
        action="append",
        choices=["float32", "bfloat16"],
        help="run only this precision; can be repeated",
    )
    add("--rounds", type=_positive, default=7, help="rounds (default 7, the least for published numbers)")
    add(
        "--threads",
        type=_positive,
        default=default_threads(),
        help="threads for each program (default 2, or 1 on a single core)",
    )
    add("--device", choices=["cpu", "cuda"], default="cpu", help="cuda runs the groups forward and step on a GPU")
    add("--json", action="store_true", help="print one JSON object instead of tables")
    add("--images", type=Path, help="denoisers: folder of clean images (default: weights/examples)")
    add("--count", type=_positive, default=4, help="denoisers: number of images (default 4)")
    add("--largest", type=float, default=24.0, help="scaling, sizing: largest image in megapixels (default 24)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
