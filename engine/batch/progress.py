"""Progress of a task: how far it is, and a stop between two pages."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from engine.batch.planning import Task


@dataclass(frozen=True)
class TaskProgress:
    """How far a task is. noise: as in Outcome, once it is known. pages_done: of a stack of that many pages."""

    task: Task
    noise: str = ""
    pages_done: int = 0
    pages: int = 1


OnProgress = Callable[[TaskProgress], None]


def ignore_progress(progress: TaskProgress) -> None:
    """For callers that show no progress."""


class TaskStopped(KeyboardInterrupt):
    """A task that was stopped between two pages. Its output is not written."""


def stop_between_pages(stopping: Event, on_progress: OnProgress = ignore_progress) -> OnProgress:
    """The progress, which also raises TaskStopped between two pages of a file once `stopping` is set."""

    def update(progress: TaskProgress) -> None:
        on_progress(progress)
        if stopping.is_set() and progress.pages_done < progress.pages and progress.pages > 1:
            raise TaskStopped

    return update
