"""The log of a training run: a .jsonl file with one JSON object a line."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.system.atomic_file import write_atomically
from engine.system.os_errors import reason


@dataclass(frozen=True)
class LogLine:
    """One line of the log. seconds, megapixels: since the start of the run; psnr: in dB, on some lines only.

    noisy_psnr: of the held-out images before denoising, in reports only. data: how many images are used, held out
    and left out, on the first line of each part of a run.
    """

    step: int
    seconds: float
    megapixels: float
    megapixels_per_second: float
    loss: float
    lr: float
    psnr: float | None
    seconds_left: float
    noisy_psnr: float | None = None
    data: str | None = None


class TrainingLog:
    """Appends lines to the file. resumed_at: the step from which the run continues, None for a new run."""

    def __init__(self, path: Path, resumed_at: int | None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = () if resumed_at is None else _lines_until(path, resumed_at)
        write_atomically(path, b"".join(kept))

    def append(self, line: LogLine) -> None:
        """Write the line's values, without those that are None."""
        with self.path.open("a") as log:
            log.write(json.dumps({k: v for k, v in asdict(line).items() if v is not None}) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log. Raises ValueError naming the file and the line that does not fit."""
    lines = []
    try:
        for number, text in enumerate(path.read_text().splitlines(), 1):
            line = json.loads(text)
            if not (isinstance(line, dict) and {"step", "loss", "megapixels"} <= line.keys()):
                raise ValueError(f"{path}: line {number} is not a line of a training log")
            lines.append(line)
    except OSError as error:
        raise ValueError(f"{path}: not a training log: {reason(error)}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a training log: {error}") from error
    return lines


def _lines_until(path: Path, step: int) -> Iterator[bytes]:
    """The lines up to a step. After a power cut the log may hold half a line, or steps that will be repeated."""
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                yield line
        except ValueError:
            continue
