"""Running job: its progress, its lease, and how it is stopped early."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from service.jobs.records import Record
from service.storage.away import StorageAway

# How often progress is stored at most, in seconds.
PROGRESS_SECONDS = 1
# A lease is renewed this many times while it lasts, so that it survives some lost messages.
RENEWALS = 4


@dataclass(eq=False)
class Running:
    """The running job. share: how much of it is done, 0 to 1. disconnected: set to stop the job early.

    details: as in Record. left: the time left, in seconds, if the job's task estimates it.
    """

    record: Record
    share: float = 0.0
    details: str | None = None
    left: float | None = None
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)
    # Set to renew the lease soon: there is progress, or another replica may have deleted the job.
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """The job's ID."""
        return self.record.id

    @property
    def seconds_left(self) -> float | None:
        """An estimate; None while nothing is done."""
        if self.left is not None:
            return self.left
        return (time.monotonic() - self.began) * (1 / self.share - 1) if self.share else None

    async def keep_lease(
        self, lease_seconds: float, renew: Callable[[float, float | None, str | None], Awaitable[bool]]
    ) -> None:
        """Renews the lease and stores the progress until this is cancelled. Stops the job if the lease is lost.

        renew: as JobStore.renew. A storage that is away ends nothing: the lease may still be held afterwards.
        """
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.news.wait(), lease_seconds / RENEWALS)
            self.news.clear()
            with suppress(StorageAway):
                if not await renew(self.share, self.seconds_left, self.details):
                    self.disconnected.set()
                    return
            await asyncio.sleep(min(PROGRESS_SECONDS, lease_seconds / RENEWALS))
