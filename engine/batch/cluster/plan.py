"""Plan of a cluster's use: how many workers run on it, and how many CPUs and GPUs each has."""

from collections.abc import Sequence
from dataclasses import dataclass

# CPUs of a worker, unless a number of workers is given. More images at once on fewer cores each are faster, but
# every image takes memory.
WORKER_CORES = 4
# How much is handed to a worker at once. What a worker has not done when it is lost is done again by others.
BATCH_MEGAPIXELS = 64.0


@dataclass(frozen=True)
class ClusterOptions:
    """Where and how a batch runs.

    address: of a running Ray cluster; None to start one on this machine, for this batch.
    workers: None for one for each WORKER_CORES, or for each GPU.
    gpus: of each worker, which may be a fraction; None for one if there are any.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float | None = None
    batch_megapixels: float = BATCH_MEGAPIXELS


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, and what it offers to workers."""

    cpus: int
    gpus: float = 0.0


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers, and the CPUs and GPUs of each."""

    workers: int
    cores: int
    gpus: float

    @property
    def words(self) -> str:
        """Such as "2 workers, each on 4 CPUs"."""
        gpus = f" and {self.gpus:g} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        each = f"each on {self.cores} CPU{'s' * (self.cores > 1)}{gpus}"
        return (
            f"{self.workers} workers, {each}" if self.workers > 1 else f"1 worker, {each.removeprefix('each ')}"
        )


def plan_workers(nodes: Sequence[Node], options: ClusterOptions, device: str) -> WorkerPlan:
    """Raises ValueError if the cluster cannot run so many workers. device: cpu, cuda, or auto."""
    has_gpus = any(node.gpus for node in nodes)
    gpus = (
        options.gpus if options.gpus is not None else float(device == "cuda" or (device == "auto" and has_gpus))
    )
    if gpus:
        fitting = sum(int(node.gpus / gpus) for node in nodes)
        workers = options.workers or fitting
        if not workers or workers > fitting:
            raise ValueError(
                f"the cluster has GPUs for {fitting} workers with {gpus:g} each, not for {max(workers, 1)}; "
                "give fewer --workers or a smaller --gpus"
            )
    else:
        workers = options.workers or max(1, sum(max(1, node.cpus // WORKER_CORES) for node in nodes if node.cpus))
    return WorkerPlan(workers, _cores(nodes, workers), gpus)


def _cores(nodes: Sequence[Node], workers: int) -> int:
    """The most CPUs that so many workers can have each."""
    most = max((node.cpus for node in nodes), default=0)
    for cores in range(most, 0, -1):
        if sum(node.cpus // cores for node in nodes) >= workers:
            return cores
    raise ValueError(
        f"the cluster has {sum(node.cpus for node in nodes)} CPUs, too few for {workers} workers; "
        "give fewer --workers"
    )
