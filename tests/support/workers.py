"""Training workers as real processes of this machine, which talk over gloo on the loopback interface."""

import multiprocessing
import os
import socket
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

SPAWN = multiprocessing.get_context("spawn")
# Seconds in which a call ends. Long, as the machine may be busy.
PATIENCE = 60


class Crew:
    """Workers that do what they are asked, all at once."""

    def __init__(self, processes, pipes):
        self.processes, self.pipes = processes, pipes

    def start(self, function, *arguments, **each):
        """Each worker begins function(group, *arguments). each: further arguments, lists by rank."""
        for rank, pipe in enumerate(self.pipes):
            pipe.send((function, arguments, {name: values[rank] for name, values in each.items()}))

    def results(self, ranks=None):
        """What each worker returned. A worker's exception is raised here."""
        found = [self.result(rank) for rank in (range(len(self.pipes)) if ranks is None else ranks)]
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return found

    def result(self, rank):
        """What one worker returned or raised."""
        assert self.pipes[rank].poll(PATIENCE), f"worker {rank} does not answer"
        return self.pipes[rank].recv()

    def do(self, function, *arguments, **each):
        """The results by rank of function(group, *arguments), run by all workers at once."""
        self.start(function, *arguments, **each)
        return self.results()


@contextmanager
def crew(folder, count=2, **settings):
    """Workers that have met. settings: for their Group."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    processes, pipes = [], []
    for rank in range(count):
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_serve, args=(rank, count, str(Path(folder, "store")), settings, theirs))
        process.start()
        processes.append(process)
        pipes.append(ours)
    try:
        yield Crew(processes, pipes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def free_port():
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _serve(rank, count, store, settings, pipe):
    import torch

    from engine.training.workers import Group

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count))
    group = Group(rank, count, f"file://{store}", torch.device("cpu"), **settings)
    while True:
        function, arguments, more = pipe.recv()
        try:
            pipe.send(function(group, *arguments, **more))
        except Exception as error:
            traceback.print_exc()
            pipe.send(error)
