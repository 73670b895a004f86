"""Shared rate limits: requests a minute and pixels an hour of each API key, over all replicas.

Each key has two buckets in the database: see TokenBucket. A request is counted by one statement, by the
database's clock, so two replicas never give the same token away. If the database is away, requests are refused.
"""

import math
from collections import Counter
from typing import TYPE_CHECKING

from service.auth.api_keys import ApiKey, digest
from service.auth.rate_limit import HOUR, MINUTE, PER_HOUR, PER_MINUTE, Sizes, limit_reached
from service.storage.away import DatabaseAway

if TYPE_CHECKING:
    from service.storage.database import Database

_VERSION = 1
_SCHEMA = """
CREATE TABLE denoise_limits (
    bucket text PRIMARY KEY,
    left_over double precision NOT NULL,
    updated timestamptz NOT NULL,
    -- Whether the last request was counted.
    taken boolean NOT NULL
) WITH (fillfactor = 70);
"""
# What is in the bucket now, never more than its size. A clock that was set back refills nothing.
_LEFT = (
    "least(%(size)s, old.left_over"
    " + greatest(0, extract(epoch FROM clock_timestamp() - old.updated)) * %(size)s / %(seconds)s)"
)
# The row is locked from here on, so `left_over` is what other replicas have left. Columns: what was left before,
# and whether the amount was taken.
_TAKE = f"""
INSERT INTO denoise_limits AS old VALUES (%(bucket)s, %(size)s::float8 - %(amount)s, clock_timestamp(), true)
ON CONFLICT (bucket) DO UPDATE SET
    taken = %(always)s OR {_LEFT} >= 1,
    left_over = {_LEFT} - CASE WHEN %(always)s OR {_LEFT} >= 1 THEN %(amount)s ELSE 0 END,
    updated = clock_timestamp()
RETURNING left_over, taken
"""


class SharedRateLimits:
    """The limits over all replicas: see RateLimits."""

    def __init__(self, sizes: Sizes, database: "Database") -> None:
        """Raises ValueError if another version of the service has created the tables, and DatabaseAway."""
        self._sizes = sizes
        self._database = database
        # Pixels of accepted images that could not be counted yet.
        self._owed = Counter[ApiKey | None]()
        database.create_tables("limits", _VERSION, _SCHEMA)

    async def admit(self, key: ApiKey | None, spends_pixels: bool = True) -> None:
        """See RateLimits."""
        sizes = self._sizes.of(key)
        if sizes.pixels and spends_pixels:
            # Takes nothing: an image's pixels are not known yet.
            await self._take(key, PER_HOUR, 0)
        if sizes.rate:
            await self._take(key, PER_MINUTE, 1)

    async def charge(self, key: ApiKey | None, pixels: int, accepted: bool = False) -> None:
        """See RateLimits. Pixels of an accepted image are counted later if the database is away."""
        if not self._sizes.of(key).pixels:
            return
        amount = pixels + self._owed.pop(key, 0) if accepted else pixels
        try:
            await self._take(key, PER_HOUR, amount, always=accepted)
        except DatabaseAway:
            if not accepted:
                raise
            self._owed[key] += amount

    async def _take(self, key: ApiKey | None, unit: str, amount: int, always: bool = False) -> None:
        """Takes an amount if there is a whole token, or always. Raises ProblemError (429) and DatabaseAway."""
        sizes = self._sizes.of(key)
        size, seconds = (sizes.rate, MINUTE) if unit == PER_MINUTE else (sizes.pixels, HOUR)
        assert size
        bucket = f"{unit} {digest(key.model_dump_json()) if key else ''}"
        values = {"bucket": bucket, "size": size, "seconds": seconds, "amount": amount, "always": always}
        rows = await self._database.in_thread(self._database.rows, _TAKE, values)
        left, taken = rows[0]
        if not taken:
            wait = (1 - left) * seconds / size
            raise limit_reached(key, math.ceil(size - left), size, unit, wait)
