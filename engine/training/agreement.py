"""Agreement of workers at the start of a run: the versions, the recipe and the data must be the same for all."""

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.imageio.read import is_image_name
from engine.training.data import DataCounts
from engine.training.training_job import TrainingJob
from engine.training.workers import Workers

ENGINE = Path(__file__).parents[1]
# They decide which numbers a batch has.
PACKAGES = ("torch", "numpy", "pillow")
# Letters of a digest in an error.
SHORT = 8
# Not compared, but needed for the errors.
NOT_COMPARED = ("host", "checkpoint", "begins anew")


def check_agreement(workers: Workers, job: TrainingJob) -> None:
    """Compare with the other workers. Raises ValueError naming the worker that differs, and in what."""
    if workers.count == 1:
        return
    own = {
        **{package: version(package) for package in PACKAGES},
        "source code of the engine": _source_digest(),
        **job.recipe.to_dict(),
        "wire": job.wire,
        "data": describe_files(job.data),
        "host": socket.gethostname(),
        "checkpoint": str(job.checkpoint.absolute()) if job.checkpoint.exists() else "",
        "begins anew": not job.continues,
    }
    first, *others = map(json.loads, workers.gather(json.dumps(own)))
    for rank, other in enumerate(others, 1):
        if different := list(_differences(first, other)):
            raise ValueError(
                f"worker {rank} on {other['host']} differs from worker 0 on {first['host']}:"
                f" {'; '.join(different)}. Start all workers with the same versions, recipe and data"
            )
        if first["begins anew"] and other["checkpoint"]:
            raise ValueError(
                f"worker {rank} on {other['host']} has a checkpoint, {other['checkpoint']}, but worker 0 on"
                f" {first['host']} has none. To resume that run, copy it to worker 0's machine, or use a folder"
                " that all machines share; to start a new run, remove it"
            )


def check_images(workers: Workers, counts: DataCounts | None) -> None:
    """Compare the images that could be read with the other workers'. Raises ValueError if they differ."""
    if workers.count == 1:
        return
    words = "" if counts is None else ", ".join((counts.words, *counts.left_out))
    first, *others = workers.gather(words)
    for rank, other in enumerate(others, 1):
        if other != first:
            raise ValueError(
                f"worker {rank} could read other images than worker 0: {other}, in place of {first}."
                " Give all workers the same files"
            )


def describe_files(data: Sequence[Path]) -> str:
    """The number of files and a digest of their names and sizes. Where the folders are makes no difference."""
    digest, count = hashlib.sha256(), 0
    for path in data:
        for name, size in _files(path):
            digest.update(json.dumps([name, size]).encode())
            count += 1
    return f"{count} files ({digest.hexdigest()[:SHORT]})" if data else "synthetic images"


def _files(path: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes of a file of pairs, or of the images in a folder."""
    if path.is_file():
        yield path.name, path.stat().st_size
        return
    # A folder that is missing has no files here. The error comes when the data are opened.
    for file in sorted(path.glob("*")):
        if is_image_name(file.name) and file.is_file():
            yield file.name, file.stat().st_size


def _source_digest() -> str:
    """Of the engine's Python files: a batch is the same for all workers only if their code is."""
    digest = hashlib.sha256()
    for file in sorted(ENGINE.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:SHORT]


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*first, *other)):
        if key not in NOT_COMPARED and first.get(key) != other.get(key):
            yield f"{key} is {other.get(key)} in place of {first.get(key)}"
