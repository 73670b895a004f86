"""The command: `python -m tests.load --help`."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence

from .course import Plan, run
from .rows import table

# Of the time under load, for each of the two times of one client.
ALONE = 1 / 10


def main(args: Sequence[str] | None = None) -> int:
    """Run and print. Returns 1 when something is not as it was asked for."""
    given = _parser().parse_args(args)
    seconds = given.minutes * 60
    # As Ctrl-C: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rows = asyncio.run(run(Plan(seconds, given.clients, seconds * ALONE)))
    if given.json:
        print(json.dumps([row.as_dict() for row in rows], ensure_ascii=False))
    else:
        print("\n".join(table(rows)))
    return int(any(row.good is False for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.load",
        description="A service of its own under load, with new weights meanwhile; then kill -9 and a restart. "
        "Each image is compared with what the engine makes of it.",
        epilog="Exit code 1 if anything is not as asked. Times mean most where nothing else runs.",
    )
    add = parser.add_argument
    add("--minutes", type=_positive, default=10, help="of load; it takes about half as long again (default 10)")
    add("--clients", type=int, default=64, help="at once (default 64)")
    add("--json", action="store_true", help="rows as JSON on stdout instead of a table")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 24 * 60:
        raise argparse.ArgumentTypeError(f"more than 0, at most a day; got {value:g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
