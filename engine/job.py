"""`python -m engine.job`: trains with only torch, numpy, Pillow and safetensors installed."""

import argparse
from pathlib import Path

import torch

from engine.layers import kernels
from engine.system.os_errors import describe
from engine.training.recipe import read_recipe
from engine.training.trainer import TrainingJob, run


def main() -> None:
    """`python -m engine.job RECIPE OUT [DATA ...] [--set KEY=VALUE ...]`: prints a line at a time."""
    parser = argparse.ArgumentParser(prog="python -m engine.job")
    parser.add_argument("recipe")
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--terms", default="not stated")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", type=Path, metavar="WEIGHTS")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], type=_key_and_value, metavar="KEY=VALUE")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        recipe = read_recipe(given.recipe, dict(given.set))
        if missing := kernels.warning():
            print(f"warning: {missing}", flush=True)
        job = TrainingJob(
            recipe, given.out, given.data, given.terms, given.resume, start=given.start, log_every=10
        )
        ended = run(job, lambda line: print(line, flush=True), print)
    except OSError as error:
        raise SystemExit(f"error: {describe(error)}") from error
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    raise SystemExit(0 if ended else 130)


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE; got {text!r}")
    return key, value


if __name__ == "__main__":
    main()
