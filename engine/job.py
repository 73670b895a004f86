"""`python -m engine.job`: trains with only torch, numpy, Pillow and safetensors installed.

`torchrun -m engine.job` trains with several workers, on one or several machines.
"""

import argparse
from pathlib import Path

import torch

from engine.adaptation.recognise import ShotsFound, refuse_shots
from engine.layers import kernels
from engine.models.checkpoint import find
from engine.system.os_errors import describe
from engine.training import workers
from engine.training.recipe import SIZE_KEYS, read_recipe
from engine.training.trainer import run
from engine.training.training_job import WIRES, TrainingJob


def main() -> None:
    """`python -m engine.job RECIPE --out FILE [--data PATH ...]`: prints a line at a time.

    Exit codes: 0 at the end, 1 for an error, 2 for wrong usage, 130 for a stop by a signal. With several workers
    a stop is 0 too, or torchrun would take it for a failure and start the workers again.
    """
    parser = _parser()
    given = parser.parse_args()
    if threads := given.threads or workers.threads():
        torch.set_num_threads(threads)
    try:
        recipe = read_recipe(given.recipe, dict(given.set))
        if (missing := kernels.warning()) and not workers.rank():
            print(f"warning: {missing}", flush=True)
        job = TrainingJob(
            recipe,
            given.out,
            given.data,
            given.terms,
            given.resume,
            given.device,
            find(given.start) if given.start else None,
            fixed_size=any(key in SIZE_KEYS for key, _ in given.set),
            log_every=10,
            save_every=given.save_every,
            name=workers.job_name(),
            wire=given.wire,
            peer_timeout=given.peer_timeout,
        )
        if given.kind == "auto" and not job.continues:
            refuse_shots(given.data, given.out)
        ended = run(job, lambda line: print(line, flush=True), lambda text: print(text, flush=True))
    except ShotsFound as error:
        parser.error(str(error))
    except OSError as error:
        raise SystemExit(f"error: {describe(error)}") from error
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if not ended and not workers.rank():
        print("stopped, and everything is saved; --resume continues", flush=True)
    raise SystemExit(0 if ended or workers.count() > 1 else 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.job")
    add = parser.add_argument
    add("recipe", help="name of a shipped recipe, or a .toml file")
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="weights file to write, .safetensors")
    add(
        "--data",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="folder of photos, to which noise is added, or .pkl file of noisy pairs (default: synthetic images)",
    )
    add(
        "--as",
        dest="kind",
        choices=("auto", "photos"),
        default="auto",
        help="what the data are: auto refuses shots of the same scene, which `denoise adapt` learns from",
    )
    add("--terms", default="not stated", help="licence of the data, stored with the weights")
    add("--resume", action="store_true", help="continue from the checkpoint beside the weights")
    add("--start", metavar="WEIGHTS", help="weights to start from: a shipped name or a .safetensors file")
    add("--device", default="auto", help="cpu, cuda, or auto: a GPU if there is one")
    add("--threads", type=int, help="processor threads of each worker (default: the machine's cores, divided)")
    add(
        "--save-every",
        type=float,
        default=TrainingJob.save_every,
        metavar="SECONDS",
        help=f"time between two checkpoints (default {TrainingJob.save_every:g})",
    )
    add(
        "--wire",
        choices=WIRES,
        default=WIRES[0],
        help=f"type in which workers exchange gradients (default {WIRES[0]})",
    )
    add(
        "--peer-timeout",
        type=float,
        default=workers.PEER_TIMEOUT,
        metavar="SECONDS",
        help=f"a worker that waits longer for another one ends (default {workers.PEER_TIMEOUT:g})",
    )
    add(
        "--set",
        action="append",
        default=[],
        type=_key_and_value,
        metavar="KEY=VALUE",
        help="override a value of the recipe",
    )
    return parser


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE; got {text!r}")
    return key, value


if __name__ == "__main__":
    main()
