"""Command line of the load test: `python -m tests.load --help`."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence

from .rows import table
from .scenario import Plan, run

# Each of the two measurements with one client takes this share of the time under load.
ALONE = 1 / 10


def main(args: Sequence[str] | None = None) -> int:
    """Run and print. Returns 1 if a requirement is not met."""
    given = _parser().parse_args(args)
    seconds = given.minutes * 60
    # SIGTERM ends the service too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rows = asyncio.run(run(Plan(seconds, given.clients, seconds * ALONE)))
    if given.json:
        print(json.dumps([row.as_dict() for row in rows], ensure_ascii=False))
    else:
        print("\n".join(table(rows)))
    return int(any(row.met is False for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.load",
        description="Start a service, put it under load, change its weights meanwhile, kill it with kill -9 and "
        "start it again. Each image is compared with the engine's own result.",
        epilog="Exit code 1 if a requirement is not met. Times mean most if nothing else runs on the machine.",
    )
    add = parser.add_argument
    add(
        "--minutes",
        type=_minutes,
        default=10,
        help="time under load; all takes about half as long again (default 10)",
    )
    add("--clients", type=int, default=64, help="clients at once (default 64)")
    add("--json", action="store_true", help="print the rows as JSON instead of a table")
    return parser


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value <= 24 * 60:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most 1440 minutes; got {value:g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
