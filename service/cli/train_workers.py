"""Workers of `denoise train --workers`: starts them on this machine and waits until they end.

They meet through a file and talk over the loopback interface, so no port is open to other machines.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.system.os_errors import describe
from engine.system.signals import stop_signals
from service.cli.console import STOPPED

# Seconds between two looks at the signals.
INTERVAL = 0.2
# Seconds that workers have to end once one of them has failed.
GRACE = 60.0
# gloo's name for the interface that it uses.
INTERFACE_SETTING = "GLOO_SOCKET_IFNAME"
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


def run_workers(count: int, work: Callable[[], bool]) -> bool:
    """Do work in new processes, as the workers of one training run. Returns whether all came to the end.

    work: what a worker does, a function that can be pickled; it returns whether the end was reached. SIGINT and
    SIGTERM are handed on once. Raises ValueError with the error of the worker that failed first.
    """
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory(prefix="denoise-workers-") as folder:
        processes, errors = list[SpawnProcess](), list[Connection[Any, Any]]()
        try:
            for rank in range(count):
                receiver, sender = context.Pipe(duplex=False)
                place = (rank, count, str(Path(folder, "store")))
                processes.append(
                    context.Process(target=_work, args=(*place, work, sender), name=f"worker {rank}")
                )
                processes[-1].start()
                sender.close()
                errors.append(receiver)
            stopped = _wait_for(processes)
        finally:
            for process in processes:
                process.kill()
                process.join()
        if not stopped and (problem := _problem(processes, errors)):
            raise ValueError(problem)
        return not stopped and all(process.exitcode == 0 for process in processes)


def _wait_for(processes: Sequence[SpawnProcess]) -> bool:
    """Wait until all have ended. Returns whether a signal stopped them before one failed."""
    deadline = None
    stopped = False
    with stop_signals() as stopping:
        while running := [process for process in processes if process.is_alive()]:
            wait([process.sentinel for process in running], INTERVAL)
            failed = any(process.exitcode not in (None, 0, STOPPED) for process in processes)
            if deadline is None and (failed or stopping.is_set()):
                stopped = not failed
                # Worker 0 saves. A user who presses Ctrl-C again does not wait for it.
                deadline = time.monotonic() + GRACE if failed else float("inf")
                for process in running:
                    process.terminate()
            if deadline is not None and time.monotonic() > deadline:
                return stopped
    return stopped


def _problem(processes: Sequence[SpawnProcess], errors: Sequence[Connection[Any, Any]]) -> str:
    """Why workers failed; "" if none did. That others were lost is a consequence, and not repeated."""
    causes, consequences = list[str](), list[str]()
    for process, receiver in zip(processes, errors, strict=True):
        try:
            is_consequence, text = receiver.recv() if receiver.poll() else (False, "")
        except EOFError:
            is_consequence, text = False, ""
        if not text and process.exitcode is not None and process.exitcode < 0:
            text = f"{process.name} was ended by {signal.Signals(-process.exitcode).name}"
            # The parent stops the others.
            is_consequence = process.exitcode == -signal.SIGTERM
        elif not text and process.exitcode not in (0, STOPPED):
            text = f"{process.name} failed with exit code {process.exitcode}"
        if text:
            (consequences if is_consequence else causes).append(text)
    # An error of the data is every worker's.
    return "; ".join(dict.fromkeys(causes or consequences))


def _work(rank: int, count: int, store: str, work: Callable[[], bool], errors: "Connection[Any, Any]") -> None:
    """The life of a worker's process."""
    from engine.training.workers import STORE_SETTING, WorkerLost

    if hasattr(os, "setsid"):
        # Ctrl-C then reaches the parent alone, which hands it on.
        os.setsid()
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({key: str(value) for key, value in place.items()})
    os.environ[STORE_SETTING] = store
    if sys.platform in LOOPBACK:
        os.environ[INTERFACE_SETTING] = LOOPBACK[sys.platform]
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        ended = work()
    except OSError as error:
        errors.send((False, describe(error)))
        sys.exit(1)
    except ValueError as error:
        errors.send((isinstance(error, WorkerLost), str(error)))
        sys.exit(1)
    sys.exit(0 if ended else STOPPED)


def _stop_with_parent() -> None:
    """Stop this process in an orderly way if its parent is killed."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
