"""False alarms of the pair doctor on sets of shots without a defect.

    python -m tests.bench.doctor 0 200

Looks at sets 0 to 199. Prints what it finds, and the share of the sets in which it finds something. That a small
set is too little counts for nothing.
"""

import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from engine.adaptation import Examination, examine
from tests.support.bursts import clean_sets, shots, write

SCENES = 3
SIDE = 96


def examined(number: int, folder: Path) -> tuple[str, Examination]:
    """The examination of clean set `number`, written to the folder, and its kind."""
    kinds = list(clean_sets())
    name, make, noise, count = next(islice(cycle(kinds), number, None))
    for index in range(SCENES):
        place = SCENES * number + index
        write(folder, f"scene-{index}", shots(make(place, SIDE), noise, count, place))
    return name, examine(folder)


def main() -> None:
    """As in the module's docstring."""
    first, last = map(int, sys.argv[1:])
    alarms = 0
    for number in range(first, last):
        with tempfile.TemporaryDirectory() as folder:
            name, examination = examined(number, Path(folder))
        found = [each for each in examination.findings if each.check != "too little"]
        alarms += bool(found)
        for each in found:
            print(
                f"set {number} ({name}): {each.file}, {each.check}, {each.number:.4g} +- {each.error:.2g}",
                flush=True,
            )
    total = last - first
    print(f"{alarms} of {total} clean sets: {alarms / total:.1%} false alarms")


if __name__ == "__main__":
    main()
