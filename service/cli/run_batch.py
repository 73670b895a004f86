"""Batches of `denoise run`: on this machine, on a Ray cluster, and of a watched folder."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from service.cli.batch_progress import BatchProgress, file_line
from service.cli.console import STOPPED, warn, warn_results
from service.cli.weights import load_model

if TYPE_CHECKING:
    from threading import Event

    from engine.batch.cluster.plan import ClusterOptions
    from engine.batch.journal import Journal
    from engine.batch.planning import Task
    from engine.batch.tasks import DenoiseOptions, Outcome
    from engine.storage.locations import Location

    # Runs the tasks; stops between two of them when the event is set.
    Runner = Callable[[list[Task], Journal | None, Event | None, BatchProgress], Iterator[Outcome]]

# What Ctrl-C answers in a batch.
STOPPING = "Stopping after the current image, or page of a stack. Ctrl-C again stops at once."


@dataclass(frozen=True)
class ModelOptions:
    """The weights, and what they run on."""

    name: str
    device: str
    precision: str


@dataclass(frozen=True)
class BatchOptions:
    """Which files are denoised, and what is told of it.

    out: a file, a folder or -; None for beside the one input. cluster: None for this process.
    """

    inputs: "list[Location]"
    out: "str | Location | None"
    format: str | None
    force: bool
    resume: bool
    recursive: bool
    quiet: bool
    verbose: bool
    cluster: "ClusterOptions | None" = None


def run_batch(batch: BatchOptions, options: "DenoiseOptions", model: ModelOptions) -> None:
    """Denoise all images. In an output folder, a journal lists what is done, and a signal stops the work."""
    from engine.batch import planning, tasks
    from engine.batch.journal import Journal
    from engine.storage.bucket import BucketNotFound
    from engine.storage.locations import location
    from engine.system.signals import interrupt_signals, stop_signals

    folder = location(batch.out) if batch.out is not None and planning.is_folder(batch.out) else None
    if not folder and (batch.resume or batch.cluster):
        raise typer.BadParameter("give a folder after -o", param_hint="--resume" if batch.resume else "--engine")
    try:
        todo = planning.plan_tasks(
            batch.inputs, batch.out, batch.force or batch.resume, batch.format, batch.recursive
        )
    except BucketNotFound as error:
        raise typer.BadParameter(str(error)) from error
    if not batch.quiet:
        _tell_plan(batch, folder, todo)
    with ExitStack() as stack:
        runner, digest = stack.enter_context(
            _on_cluster(batch.cluster, options, model, batch.quiet) if batch.cluster else _here(options, model)
        )
        journal = stopping = None
        if folder:
            journal = Journal(folder, options.fingerprint(digest), batch.resume)
            stack.enter_context(closing(journal))
            stopping = stack.enter_context(stop_signals("" if batch.quiet else STOPPING))
        else:
            stack.enter_context(interrupt_signals())
        if journal and batch.resume:
            total, todo = len(todo), tasks.remaining_tasks(todo, journal, batch.force)
            if not batch.quiet:
                warn(f"skipping {total - len(todo)} of {total} images, which are done")
        progress = BatchProgress(len(todo), batch.quiet, batch.verbose, at_once=batch.cluster is not None)
        with progress.shown(), suppress(KeyboardInterrupt):
            for outcome in runner(todo, journal, stopping, progress):
                progress.finish(outcome)
        progress.summarise()
    if progress.done < len(todo):
        if folder:
            warn(
                f"stopped: {len(todo) - progress.done} of {len(todo)} images are left. Use --resume to continue."
            )
        else:
            warn(f"stopped: {todo[0].source} is not done, and nothing was written. Run the command again.")
        raise typer.Exit(STOPPED)
    if progress.failed:
        raise typer.Exit(1)


@contextmanager
def _here(options: "DenoiseOptions", model: ModelOptions) -> "Iterator[tuple[Runner, str]]":
    """Runs tasks in this process, one after another. With the digest of the weights."""
    from engine.batch import tasks
    from engine.batch.progress import stop_between_pages
    from engine.inference.mosaic import mosaic_nets

    loaded = load_model(model.name, model.device, model.precision)
    complete = replace(options, mosaic_nets=mosaic_nets(loaded))

    def run(
        todo: "list[Task]", journal: "Journal | None", stopping: "Event | None", progress: BatchProgress
    ) -> "Iterator[Outcome]":
        update = stop_between_pages(stopping, progress.update) if stopping else progress.update
        return tasks.denoise_files(loaded.select, todo, complete, journal, update, stopping)

    yield run, loaded.digest


@contextmanager
def _on_cluster(
    cluster: "ClusterOptions", options: "DenoiseOptions", model: ModelOptions, quiet: bool
) -> "Iterator[tuple[Runner, str]]":
    """Runs tasks on the nodes of a Ray cluster. With the digest of the weights."""
    from engine.batch.cluster.connection import RayMissing, connected
    from engine.batch.cluster.ray_engine import RayEngine
    from engine.batch.cluster.worker import ModelFiles

    files = ModelFiles.read(model.name)
    with ExitStack() as stack:
        # Ray prints the logs of its processes there when one of them ends.
        stack.enter_context(redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        try:
            ray = stack.enter_context(connected(cluster.address))
        except RayMissing as error:
            raise typer.BadParameter(str(error), param_hint="--engine") from error
        engine = RayEngine(ray, cluster, files, model.device, model.precision, warn)
        if not quiet:
            warn(f"starting {engine.plan.words}")

        def run(
            todo: "list[Task]", journal: "Journal | None", stopping: "Event | None", progress: BatchProgress
        ) -> "Iterator[Outcome]":
            assert journal, "a cluster needs an output folder"
            return engine.denoise_files(todo, options, journal, stopping)

        yield run, files.digest


def _tell_plan(batch: BatchOptions, folder: "Location | None", todo: "list[Task]") -> None:
    """Tell which names are longer than usual, and which files are left out."""
    from engine.batch import finding, planning

    if whole := [task for task in todo if planning.has_whole_name(task)]:
        warn(f"{len(whole)} images have names that differ only in the suffix, so their outputs keep it:")
        warn("\n".join(f"{task.source}: {task.target}" for task in whole))
    for path in batch.inputs:
        if not path.is_dir():
            continue
        found = finding.find_images(path, batch.recursive, skip=folder)
        warn_results(path, found.results, "" if batch.verbose else "; -v names them")
        count = len(found.left_out)
        if count:
            named = "" if batch.verbose else f"; -v names {'it' if count == 1 else 'them'}"
            kind = "file that is not an image" if count == 1 else "files that are not images"
            warn(f"{path}: left out {count} {kind}{named}")
        count = len(found.folders)
        if count:
            reason = "" if batch.recursive else f"; --recursive includes {'it' if count == 1 else 'them'}"
            kind = "linked folder" if batch.recursive else "subfolder"
            warn(f"{path}: left out {count} {kind}{'s' * (count != 1)}{reason}")
        if batch.verbose:
            for left_out in (*found.results, *found.left_out, *found.folders):
                warn(f"left out: {left_out}")


def run_watch(batch: BatchOptions, options: "DenoiseOptions", model: ModelOptions) -> None:
    """Denoise the files in a folder and every file that arrives, with a line for each, until a signal comes."""
    from engine.batch.journal import Journal
    from engine.batch.planning import KEEP
    from engine.batch.reading import sandboxed
    from engine.batch.watch import FolderWatcher, check_folders
    from engine.inference.mosaic import mosaic_nets
    from engine.system.signals import stop_signals

    if len(batch.inputs) != 1:
        raise typer.BadParameter("give exactly one folder", param_hint="--watch")
    if batch.out is None:
        raise typer.BadParameter("give a folder for the results, such as -o clean/", param_hint="-o")
    folder = batch.inputs[0]
    if not isinstance(folder, Path) or not isinstance(batch.out, str):
        raise typer.BadParameter("watches folders, not buckets", param_hint="--watch")
    check_folders(folder, batch.out)
    done = failed = 0
    with ExitStack() as stack:
        # First: its process loads the codecs while this one loads the weights.
        reader = stack.enter_context(sandboxed())
        loaded = load_model(model.name, model.device, model.precision)
        options = replace(options, mosaic_nets=mosaic_nets(loaded))
        journal = Journal(Path(batch.out), options.fingerprint(loaded.digest), resume=True)
        stack.enter_context(closing(journal))
        stopping = stack.enter_context(stop_signals())
        watcher = FolderWatcher(folder, journal, warn, batch.format or KEEP, batch.force, reader=reader)
        warn(f"watching {watcher.folder}. Press Ctrl-C to stop.")
        for outcome in watcher.outcomes(loaded.select, options, stopping):
            failed += outcome.error is not None
            done += outcome.error is None
            if outcome.error or not batch.quiet:
                warn(file_line(outcome))
    warn(f"stopped: {done} denoised, {failed} failed")
