"""Workers of `denoise train --workers`: starts them on this machine and waits until they end.

They meet through a file and talk over the loopback interface, so no port is open to other machines.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
        processes, errors = list[SpawnProcess](), list["Connection[Any, Any]"]()
        try:
            for rank in range(count):
                receiver, sender = context.Pipe(duplex=False)
                arguments = (_variables(rank, count, Path(folder)), work, sender)
                processes.append(context.Process(target=_work, args=arguments, name=f"worker {rank}"))
                processes[-1].start()
                sender.close()
                errors.append(receiver)
            stopped = _wait_for(processes)
        finally:
            for process in processes:
                process.kill()
                process.join()
        causes, consequences = _problems(processes, errors)
        if problems := causes or ([] if stopped else consequences):
            # An error of the data is every worker's.
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return not stopped and all(process.exitcode == 0 for process in processes)


def _variables(rank: int, count: int, folder: Path) -> dict[str, str]:
    """The environment variables by which a worker knows its place, as torchrun sets them."""
    from engine.training.workers import STORE_SETTING

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    variables = {name: str(value) for name, value in place.items()} | {STORE_SETTING: str(folder / "store")}
    return variables | ({INTERFACE_SETTING: LOOPBACK[sys.platform]} if sys.platform in LOOPBACK else {})


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


def _problems(
    processes: Sequence[SpawnProcess], errors: "Sequence[Connection[Any, Any]]"
) -> tuple[list[str], list[str]]:
    """Why workers failed, and what followed: that others lost a worker, or were ended by this process."""
    causes, consequences = list[str](), list[str]()
    for process, receiver in zip(processes, errors, strict=True):
        code = process.exitcode or 0
        try:
            follows, text = receiver.recv() if receiver.poll() else (False, "")
        except EOFError:
            follows, text = False, ""
        if not text and code < 0:
            follows, text = code == -signal.SIGTERM, f"{process.name} was ended by {signal.Signals(-code).name}"
        elif not text and code not in (0, STOPPED):
            text = f"{process.name} failed with exit code {code}"
        if text:
            (consequences if follows else causes).append(text)
    return causes, consequences


def _work(variables: Mapping[str, str], work: Callable[[], bool], errors: "Connection[Any, Any]") -> None:
    """The life of a worker's process."""
    if hasattr(os, "setsid"):
        # Ctrl-C then reaches the parent alone, which hands it on.
        os.setsid()
    os.environ.update(variables)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        ended = work()
    except OSError as error:
        errors.send((False, describe(error)))
        sys.exit(1)
    except ValueError as error:
        from engine.training.workers import WorkerLost

        errors.send((isinstance(error, WorkerLost), str(error)))
        sys.exit(1)
    sys.exit(0 if ended else STOPPED)


def _stop_with_parent() -> None:
    """Stop this process in an orderly way if its parent is killed."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
