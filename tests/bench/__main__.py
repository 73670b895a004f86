"""The command: `python -m tests.bench --help`."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from . import denoisers, forward, layer, scaling, service, sizing, step
from .machine import default_threads, precisions, processor
from .rows import Differs, Group, Options, table

GROUPS: Mapping[str, Group] = {
    "layer": layer.rows,
    "forward": forward.rows,
    "step": step.rows,
    "denoisers": denoisers.rows,
    "service": service.rows,
    "scaling": scaling.rows,
    "sizing": sizing.rows,
}


# The groups that run on a GPU.
ON_A_GPU = ["forward", "step"]


def main(args: Sequence[str] | None = None, groups: Mapping[str, Group] = GROUPS) -> int:
    """Measure and print. Returns 1 when two sides of a row give different results."""
    given = _parser(groups).parse_args(args)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("error: --device is cuda, and torch finds no GPU here", file=sys.stderr)
        return 1
    torch.set_num_threads(given.threads)
    types = tuple(given.precision or precisions(given.device))
    options = Options(
        *(given.rounds, given.threads, types, given.only, given.images, given.count, given.largest),
        given.device,
    )
    asked = given.group or (ON_A_GPU if given.device == "cuda" else list(groups))
    chosen = {name: groups[name] for name in groups if name in asked}
    try:
        _print_json(chosen, options) if given.json else _print_tables(chosen, options)
    except Differs as error:
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
        description="How fast the project is beside other software. A ratio above 1: ours is the faster.",
        epilog="Peers come with `pip install .[bench]`; what is missing is left out, with a line on stderr.",
    )
    add = parser.add_argument
    add("--group", action="append", choices=list(groups), help="only this group; may be repeated")
    add("--only", default="", metavar="TEXT", help='only the cases that hold this text, such as "M, 512"')
    add("--precision", action="append", choices=["float32", "bfloat16"], help="only this; may be repeated")
    add("--rounds", type=_positive, default=7, help="rounds; published numbers take 7 at least (default 7)")
    add("--threads", type=_positive, default=default_threads(), help="of every side (default 2, if there are)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: forward and step, on a GPU")
    add("--json", action="store_true", help="one JSON object on stdout instead of tables")
    add("--images", type=Path, help="denoisers: folder of clean images (default: weights/examples)")
    add("--count", type=_positive, default=4, help="denoisers: how many of the images (default 4)")
    add("--largest", type=float, default=24.0, help="scaling, sizing: largest image, in megapixels (default 24)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1; got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
