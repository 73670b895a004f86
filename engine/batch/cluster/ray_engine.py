"""Ray engine: hands out the tasks of a batch to workers on the nodes of a Ray cluster, and notes what they made.

Ray starts the workers, and tells when one of them or its node is gone. What is left of its work then goes to
others. Every output is written as a whole, so an image that is done twice is no harm.

Ray Data was tried instead (2.60). It repeats the block of a file that ends its worker without end, and the rows
of the block never come. It also starts its own actors and queues, so a stop cuts the images in work.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from engine.batch.cluster.connection import answers
from engine.batch.cluster.handout import HandOut
from engine.batch.cluster.plan import ClusterOptions, Node, WorkerPlan, plan_workers
from engine.batch.cluster.worker import ModelFiles, Row, Worker, WorkerSetup
from engine.batch.journal import MAX_ATTEMPTS, Journal, JournalEntry
from engine.batch.planning import Task
from engine.batch.tasks import HOPELESS, DenoiseOptions, Outcome, words_of_error
from engine.storage.locations import ObjectPath, file_stamp

# How long to wait for the next event before looking whether to stop, in seconds.
TICK = 0.5
# Portions that a worker has: the one in work, and the next, so that it never waits.
PORTIONS = 2
# Workers in a row that may end before they have started. Then something is wrong that another try will not mend.
MAX_FAILED_STARTS = 3
# How long Ray may take to find out that a worker has ended, in seconds.
DOUBT_SECONDS = 60.0
# Seconds after which waiting for the first worker is told.
PATIENCE = 60.0
# Methods that run beside `denoise`.
CONTROL = "control"


@dataclass
class _Portion:
    """Tasks that a worker was handed. rows: what it returns, one by one. left: what it has not returned yet."""

    rows: Any
    left: deque[tuple[Task, JournalEntry]]


@dataclass
class _Member:
    """A worker. started: Ray's reference to the end of its start. node: where it runs, once that is known."""

    actor: Any
    started: Any
    node: str = ""
    portions: deque[_Portion] = field(default_factory=deque)

    @property
    def waits_for(self) -> Any:
        """What Ray is to wait for; None if there is nothing."""
        return self.portions[0].rows if self.portions else self.started


@dataclass
class _Doubt:
    """An image that a lost worker was at.

    call: to the worker. It fails once Ray knows that the worker has ended. until: how long to wait for that.
    """

    task: Task
    entry: JournalEntry
    member: _Member
    call: Any
    until: float


class RayEngine:
    """Runs batches on a cluster. ray: the package, connected; see `connected`.

    tell: is called with what a user should know. Raises ValueError if the cluster cannot run the workers.
    """

    def __init__(
        self,
        ray: Any,
        options: ClusterOptions,
        model: ModelFiles,
        device: str,
        precision: str,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ray, self._options, self._model, self._precision = ray, options, model, precision
        self._tell = tell
        self.plan: WorkerPlan = plan_workers(self._nodes(), options, device)
        self._members: list[_Member] = []
        self._doubts: list[_Doubt] = []
        self._gone_nodes: set[str] = set()
        self._setup: Any = None
        self._failed_starts = 0

    def denoise_files(
        self, tasks: Sequence[Task], options: DenoiseOptions, journal: Journal, stopping: Event | None = None
    ) -> Iterator[Outcome]:
        """Run the tasks, in any order. An error ends only its own task; the outcome has it.

        stopping: once it is set, each worker finishes its image, and no further task begins.
        Raises ValueError if workers cannot start, and OSError if the journal cannot be written.
        """
        waiting = HandOut(tasks, self._options.batch_megapixels, self.plan.workers, _size_of)
        device = "cuda" if self.plan.gpus else "cpu"
        with _shared_files(tasks, journal) as shared:
            setup = WorkerSetup(self._model, options, device, self._precision, self.plan.cores, shared)
            self._setup = self._ray.put(setup)
            try:
                for _ in range(min(self.plan.workers, len(tasks))):
                    self._add_member()
                yield from self._run(waiting, journal, stopping or Event())
            finally:
                for member in self._members:
                    self._ray.kill(member.actor)
                self._members.clear()

    def _run(self, waiting: HandOut, journal: Journal, stopping: Event) -> Iterator[Outcome]:
        is_told, patience = False, time.monotonic() + PATIENCE
        while True:
            if stopping.is_set() and not is_told:
                is_told = True
                for member in self._members:
                    member.actor.stop.options(concurrency_group=CONTROL).remote()
            if not stopping.is_set():
                for member in self._members:
                    yield from self._hand_out(member, waiting, journal)
            is_idle = not any(member.portions for member in self._members)
            if is_idle and (stopping.is_set() or not (waiting or self._doubts)):
                return
            for member in self._ready():
                yield from self._receive(member, waiting, journal)
            yield from self._settle(waiting, journal)
            if time.monotonic() >= patience and all(member.started is not None for member in self._members):
                patience = time.monotonic() + PATIENCE
                self._tell("no worker has started yet; does something else use the cluster?")

    def _ready(self) -> list[_Member]:
        """The members of which something is to be received."""
        by_reference = {member.waits_for: member for member in self._members if member.waits_for is not None}
        references = list(by_reference)
        if not references:
            time.sleep(TICK)
            return []
        ready, _ = self._ray.wait(references, num_returns=1, timeout=TICK)
        if ready:
            # All that are, so that the first ones do not keep the others waiting.
            ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [by_reference[reference] for reference in ready]

    def _hand_out(self, member: _Member, waiting: HandOut, journal: Journal) -> Iterator[Outcome]:
        """Hand portions to a worker that has too few."""
        while member.started is None and len(member.portions) < PORTIONS and waiting:
            work = deque[tuple[Task, JournalEntry]]()
            for task in waiting.next():
                try:
                    if journal.is_hopeless(task.source):
                        journal.give_up(task.source, task.target, HOPELESS)
                        yield Outcome(task, HOPELESS)
                        continue
                    work.append((task, journal.entry_for(task.source, task.target)))
                except OSError as error:
                    yield Outcome(task, words_of_error(task, error))
            if work:
                journal.record([entry for _, entry in work])
                pairs = [(_absolute(task), entry.source_stamp) for task, entry in work]
                rows = member.actor.denoise.options(num_returns="streaming").remote(pairs)
                member.portions.append(_Portion(rows, work))

    def _receive(self, member: _Member, waiting: HandOut, journal: Journal) -> Iterator[Outcome]:
        """Take the next row of a worker, or notice that it has started, has done a portion, or is gone."""
        try:
            if not member.portions:
                member.node = self._ray.get(member.started)
                member.started, self._failed_starts = None, 0
                return
            portion = member.portions[0]
            row: Row = self._ray.get(next(portion.rows))
        except StopIteration:
            portion = member.portions.popleft()
            # Not done because of a stop.
            waiting.put_back([task for task, _ in portion.left])
        except self._ray.exceptions.RayTaskError as error:
            # Of the start. Errors of images are rows.
            raise ValueError(f"a worker cannot do its work: {error.cause}") from error
        except self._ray.exceptions.RayError as error:
            self._lose(member, waiting, error)
        else:
            task, entry = portion.left.popleft()
            waiting.learn(task, row.outcome.pixels)
            if row.finished:
                journal.finish(entry, row.outcome.error, row.output_stamp)
            # The worker's task is a copy.
            yield replace(row.outcome, task=task)

    def _lose(self, member: _Member, waiting: HandOut, error: Exception) -> None:
        """A worker is gone. Another one takes its place, and others its work."""
        self._members.remove(member)
        if member.started is not None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise ValueError(
                    f"{self._failed_starts} workers ended before they had started. Is the same denoise[ray] "
                    f"installed on all nodes? Ray says: {error}"
                ) from error
        self._add_member()
        left = [pair for portion in member.portions for pair in portion.left]
        if left:
            call = member.actor.stop.options(concurrency_group=CONTROL).remote()
            self._doubts.append(_Doubt(*left[0], member, call, time.monotonic() + DOUBT_SECONDS))
            waiting.put_back([task for task, _ in left[1:]])

    def _settle(self, waiting: HandOut, journal: Journal) -> Iterator[Outcome]:
        """Decide over images that lost workers were at. They are not to blame if the node is gone too."""
        if not self._doubts:
            return
        calls = [doubt.call for doubt in self._doubts]
        ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        doubts, self._doubts = self._doubts, []
        for doubt in doubts:
            if doubt.call not in ready and time.monotonic() < doubt.until:
                self._doubts.append(doubt)
            elif self._is_gone(doubt.member.node):
                waiting.put_back([doubt.task])
            elif self._has_ended(doubt):
                yield from self._blame(doubt, waiting, journal)
            else:
                waiting.put_back([doubt.task])

    def _is_gone(self, node: str) -> bool:
        """Whether a node does not answer any more."""
        if node not in self._gone_nodes:
            addresses = {
                each["NodeID"]: (each["NodeManagerAddress"], each["NodeManagerPort"])
                for each in self._ray.nodes()
                if each["Alive"]
            }
            if node in addresses and answers(addresses[node]):
                return False
            self._gone_nodes.add(node)
            self._tell("a node is gone; others do its work")
        return True

    def _has_ended(self, doubt: _Doubt) -> bool:
        """Whether the worker has ended. It may also be out of reach, and is then ended here."""
        try:
            self._ray.get(doubt.call, timeout=0)
        except self._ray.exceptions.GetTimeoutError:
            pass
        except self._ray.exceptions.RayError:
            return True
        self._ray.kill(doubt.member.actor)
        return False

    def _blame(self, doubt: _Doubt, waiting: HandOut, journal: Journal) -> Iterator[Outcome]:
        """An image has ended its worker. It gets another try, or is given up."""
        entry = replace(doubt.entry, attempts=doubt.entry.attempts + 1)
        if entry.attempts < MAX_ATTEMPTS:
            journal.note_suspect(entry)
            waiting.put_last(doubt.task)
            self._tell(
                f"{doubt.task.source}: a worker ended while it denoised this image; it is tried again last"
            )
        else:
            journal.give_up_entry(entry, HOPELESS)
            yield Outcome(doubt.task, HOPELESS)

    def _add_member(self) -> None:
        """Start a worker, on the node with the least work. While no node has room, Ray lets it wait."""
        options = {
            "num_cpus": self.plan.cores,
            "num_gpus": self.plan.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
            "concurrency_groups": {CONTROL: 1},
        }
        actor = self._ray.remote(**options)(_RayWorker).remote(self._setup)
        self._members.append(_Member(actor, actor.start_on_node.remote()))

    def _nodes(self) -> list[Node]:
        return [
            Node(int(node["Resources"].get("CPU", 0)), node["Resources"].get("GPU", 0.0))
            for node in self._ray.nodes()
            if node["Alive"]
        ]


class _RayWorker(Worker):
    def start_on_node(self) -> str:
        """Start. Returns the identity of the node."""
        import ray

        self.start()
        return str(ray.get_runtime_context().get_node_id())


def _size_of(task: Task) -> int:
    try:
        stamp = file_stamp(task.source)
    except OSError:
        return 0
    return stamp[0] if stamp else 0


def _absolute(task: Task) -> Task:
    """The task in words that hold on every node, which may work in another folder."""
    return replace(task, source=task.source.absolute(), target=task.target.absolute())


@contextmanager
def _shared_files(tasks: Sequence[Task], journal: Journal) -> Iterator[tuple[Path, ...]]:
    """What every node must see: a folder of sources, and a file that is made in the output folder to find out."""
    seen = [task.source.absolute().parent for task in tasks[:1] if isinstance(task.source, Path)]
    if isinstance(journal.folder, ObjectPath):
        yield tuple(seen)
        return
    probe = journal.folder.absolute() / ".denoise" / f"shared-{secrets.token_hex(4)}"
    probe.touch()
    try:
        yield (*seen, probe)
    finally:
        probe.unlink(missing_ok=True)
