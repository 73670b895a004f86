"""Hand-out: the tasks of a batch that wait, in portions for the workers of a cluster."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from engine.batch.planning import Task

# Images in a portion. Small images would otherwise make portions of thousands.
MAX_PORTION = 256
# Pixels for each byte of a file, until files of that kind are done: one of JPEG has about 4, one of PNG 0.4.
PIXELS_PER_BYTE = 1.0


@dataclass
class HandOut:
    """Hands out tasks in portions of about so many megapixels.

    A file's pixels are guessed from its bytes and from the files with the same suffix that are done. Portions get
    smaller at the end, so that all workers finish at about the same time.

    workers: how many there are. size_of: a task's source in bytes; 0 if that is not known.
    """

    tasks: Iterable[Task]
    megapixels: float
    workers: int
    size_of: Callable[[Task], int]
    _waiting: deque[Task] = field(init=False)
    # Those that may have ended a worker, each of which goes alone, after all others.
    _suspects: deque[Task] = field(default_factory=deque)
    _pixels: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _bytes: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self._waiting = deque(self.tasks)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    def next(self) -> list[Task]:
        """The next portion; empty if nothing waits."""
        if not self._waiting:
            return [self._suspects.popleft()] if self._suspects else []
        count = min(MAX_PORTION, -(-len(self._waiting) // (2 * self.workers)))
        portion = [self._waiting.popleft()]
        pixels = self._guess(portion[0])
        while self._waiting and len(portion) < count:
            pixels += self._guess(self._waiting[0])
            if pixels > self.megapixels * 1e6:
                break
            portion.append(self._waiting.popleft())
        return portion

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Tasks that were handed out, and were not begun or are not to blame."""
        self._waiting.extendleft(reversed(list(tasks)))

    def put_last(self, task: Task) -> None:
        """A task that may have ended its worker."""
        self._suspects.append(task)

    def learn(self, task: Task, pixels: int) -> None:
        """A task that is done had so many pixels."""
        if pixels:
            self._pixels[task.source.suffix] += pixels
            self._bytes[task.source.suffix] += self.size_of(task)

    def _guess(self, task: Task) -> float:
        known = self._bytes.get(task.source.suffix)
        ratio = self._pixels[task.source.suffix] / known if known else PIXELS_PER_BYTE
        return self.size_of(task) * ratio
