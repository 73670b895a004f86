"""Storage that is away: its errors, which need none of the packages that reach it, and how calls fail at once."""

import time
from collections.abc import Callable
from threading import Lock

from service.problems import ProblemError

# When to try again, as Retry-After says.
RETRY_SECONDS = 5
# After a call failed because the storage is away, for how long others fail at once. Then one call tries.
AWAY_SECONDS = 1


class StorageAway(ProblemError):
    """The storage did not answer, or could not do its work. A change may or may not have been made."""

    status = 503

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The service cannot reach its {what}. Try again later.", headers={"Retry-After": str(RETRY_SECONDS)}
        )


class DatabaseAway(StorageAway):
    """The database is away, overloaded, or became a read-only copy."""

    def __init__(self) -> None:
        super().__init__("database")


class BlobsAway(StorageAway):
    """The blob store is away, or refuses."""

    def __init__(self) -> None:
        super().__init__("file store")


class Breaker:
    """Lets calls fail at once while a storage is away, so that they do not queue up behind each other.

    One call in AWAY_SECONDS tries whether it is back.
    """

    def __init__(
        self, error: Callable[[], StorageAway], most_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """most_seconds: that one call takes."""
        self._error = error
        self._most_seconds = most_seconds
        self._clock = clock
        self._lock = Lock()
        self._refuse_until: float | None = None

    def refuse_while_away(self) -> None:
        """Raises the error."""
        with self._lock:
            if self._refuse_until is None:
                return
            if self._clock() < self._refuse_until:
                raise self._error()
            # This call tries. The others are refused until it is known how it went.
            self._refuse_until = self._clock() + self._most_seconds

    def trip(self) -> None:
        """A call has failed."""
        with self._lock:
            self._refuse_until = self._clock() + AWAY_SECONDS

    def reset(self) -> None:
        """A call has succeeded."""
        with self._lock:
            self._refuse_until = None
