"""Adaptation process: trains on a folder of shots, in a process of its own that the service limits and stops.

It prints its progress as a line of JSON at a time, and writes its outcome to a file at the end.
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from engine.adaptation import Adaptation, AdaptProgress
    from engine.adaptation.scenes import KindChoice

# In the work folder: the outcome as JSON, the seconds that the process was stopped, and the folder of results.
OUTCOME = "outcome.json"
STOPPED = "stopped"
RESULTS = "results"
# Seconds between two lines about progress while training.
TELL_SECONDS = 1.0
# Of gains in dB, after the point.
DIGITS = 4
# The number of PR_SET_PDEATHSIG in Linux's prctl.
_PR_SET_PDEATHSIG = 1
# Added to the nice value: the highest that Linux knows.
_NICE = 19


@dataclass(frozen=True)
class AdaptTask:
    """What to do. work: the work folder. shots, start: as engine.adapt takes them, in the work folder.

    parent: ID of the process that started this one. memory: limit, in bytes.
    """

    work: str
    shots: str
    name: str
    minutes: float
    kind: "KindChoice"
    start: str
    seed: int
    threads: int
    memory: int
    parent: int


@dataclass(frozen=True)
class Failure:
    """Why no weights were made. kind: of the error. report: values of the doctor's report, if there are any."""

    kind: Literal["shots", "memory"]
    text: str
    report: dict[str, Any] | None = None


def command(task: AdaptTask) -> list[str]:
    """The command that runs this module. Nothing is imported from the work folder."""
    paths = [str(Path(path).absolute()) for path in sys.path]
    code = f"import sys; sys.path[:] = sys.argv[2:]; from {__name__} import main; main(sys.argv[1])"
    return [sys.executable, "-P", "-c", code, json.dumps(asdict(task)), *paths]


def environment(threads: int) -> dict[str, str]:
    """The environment of the process: without the service's settings, among which are keys and passwords."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("DENOISE_")}
    kept |= {name: text for name, text in os.environ.items() if name == "DENOISE_KERNELS"}
    return {**kept, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}


def main(text: str) -> None:
    """Do an AdaptTask, given as JSON."""
    task = AdaptTask(**json.loads(text))
    _end_with(task.parent)
    # Whoever stops the service may signal all its processes. The service decides about this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(task.memory)
    os.chdir(task.work)
    # Libraries may print to descriptor 1. Closed at the end, which tells that the outcome is there.
    with os.fdopen(os.dup(1), "w") as progress:
        os.dup2(2, 1)
        outcome = _run(task, _Reporter(task.minutes, progress))
        Path(OUTCOME).write_text(json.dumps(outcome))


def _end_with(parent: int) -> None:
    """Ends this process when the service ends, also if that is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _limit_memory(memory: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(
        resource.RLIMIT_DATA, (memory if hard == resource.RLIM_INFINITY else min(memory, hard), hard)
    )


def _run(task: AdaptTask, reporter: "_Reporter") -> dict[str, Any]:
    """The outcome: of an adaptation, or a Failure."""
    from engine.adaptation import adapt
    from engine.adaptation.report import make_report, to_json, write_html
    from engine.system.runtime import return_freed_memory, use_cores

    return_freed_memory()
    use_cores(task.threads)
    out = Path(RESULTS, f"{task.name}.safetensors")
    try:
        result = adapt(
            task.shots,
            out,
            task.minutes,
            kind=task.kind,
            start=task.start,
            seed=task.seed,
            on_progress=reporter,
            check=reporter.check,
            clock=training_clock,
        )
        report = make_report(result)
        write_html(report, out.with_suffix(".html"))
        out.with_suffix(".json").write_text(to_json(report))
    except ValueError as error:
        return asdict(Failure("shots", str(error), _examined(task)))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        return asdict(Failure("memory", str(error)))
    return outcome_of(result)


def outcome_of(result: "Adaptation") -> dict[str, Any]:
    """What the status of a job says about the result."""
    from engine.adaptation.report.values import finite

    verdict, change = result.verdict, result.verdict.improvement
    return {
        "verdict": "better" if verdict.passed else "not better",
        "gain": finite(round(verdict.after.value, DIGITS)),
        "gain_before": finite(round(verdict.before.value, DIGITS)),
        "improvement": {end: finite(round(getattr(change, end), DIGITS)) for end in ("value", "low", "high")},
        "reasons": list(verdict.reasons),
    }


def _examined(task: AdaptTask) -> dict[str, Any] | None:
    """The doctor's report of shots that cannot be learnt from."""
    from engine.adaptation import examine
    from engine.adaptation.report import make_report

    try:
        return make_report(examine(Path(task.shots), task.kind)).values
    except (ValueError, MemoryError):
        # There are no shots, or they are too large: the error said so.
        return None


def training_clock() -> float:
    """Seconds, without those during which this process was stopped."""
    now = time.monotonic()
    return now - float(Path(STOPPED).read_text())


class _Reporter:
    """Writes a line about the progress, at most one a second while training."""

    def __init__(self, minutes: float, file: TextIO) -> None:
        self.minutes, self.file = minutes, file
        # When training began and when it was last told, by the training clock.
        self.began: float | None = None
        self.told = 0.0
        self.gain: float | None = None
        # Now the process ends with the service, and may be stopped.
        self._tell("examining", 0)

    def __call__(self, progress: "AdaptProgress") -> None:
        if progress.stage == "training" and self.began is None:
            self.began = training_clock()
        if progress.look and math.isfinite(gain := progress.look.point.gain.value):
            self.gain = round(gain, DIGITS)
        self._tell(progress.stage, progress.done)

    def check(self) -> None:
        """Called between steps."""
        if self.began is not None and training_clock() >= self.told + TELL_SECONDS:
            self._tell("training", (training_clock() - self.began) / (60 * self.minutes))

    def _tell(self, stage: str, done: float) -> None:
        self.told = training_clock()
        if stage == "judging":
            self.began = None
        print(json.dumps({"stage": stage, "done": min(1.0, done), "gain": self.gain}), file=self.file, flush=True)
