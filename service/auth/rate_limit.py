"""Rate limits of API keys: requests a minute and pixels an hour, of one process."""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from service.auth.api_keys import ApiKey
from service.problems import ProblemError

MINUTE = 60  # seconds
HOUR = 3600  # seconds
PER_MINUTE = "requests a minute"
PER_HOUR = "pixels an hour"

# Counts an image's pixels. See RateLimits.charge.
Charge = Callable[[int], Awaitable[None]]


class RateLimits(Protocol):
    """The limits of all API keys. Use them on the event loop only."""

    async def admit(self, key: ApiKey | None, spends_pixels: bool = True) -> None:
        """Count a request. Without keys (None) all clients share one limit.

        spends_pixels: whether the request is refused if no pixels are left.
        Raises ProblemError, status 429; or 503 if it cannot be counted.
        """

    async def charge(self, key: ApiKey | None, pixels: int, accepted: bool = False) -> None:
        """Count an image's pixels, which are known only after its header is read.

        An image may take more pixels than are left. Further requests are then refused until pixels are left.
        accepted: the client was told that the image will be done, so do not refuse it.
        Raises ProblemError: status 429 if no pixels are left, 503 if they cannot be counted.
        """


@dataclass(frozen=True)
class Sizes:
    """The limits that a key has: requests a minute, and pixels an hour. None means no limit."""

    rate: int | None
    pixels: int | None

    def of(self, key: ApiKey | None) -> "Sizes":
        """The key's own limits. These are for a key that has none."""
        return Sizes(key.rate or self.rate, key.pixels or self.pixels) if key else self


class TokenBucket:
    """Holds `size` tokens, and refills evenly within `seconds`.

    clock: a monotonic clock, so that changes of the system time have no effect.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = size
        self._tokens_per_second = size / seconds
        self._clock = clock
        self._left = float(size)
        self._updated = clock()

    def left(self) -> float:
        """Tokens in the bucket; negative if more were taken than there were."""
        now = self._clock()
        self._left = min(self.size, self._left + (now - self._updated) * self._tokens_per_second)
        self._updated = now
        return self._left

    def take(self, amount: int) -> None:
        """Take tokens, even more than there are."""
        self._left = self.left() - amount

    def seconds_to_next(self) -> float:
        """Seconds until there is a whole token; 0 if there is one."""
        return max(0.0, (1 - self.left()) / self._tokens_per_second)

    def used(self) -> int:
        """Tokens that were taken and not refilled yet, rounded up."""
        return math.ceil(self.size - self.left())


@dataclass(frozen=True)
class KeyLimits:
    """The buckets of one API key. None means no limit."""

    requests: TokenBucket | None
    pixels: TokenBucket | None


class LocalRateLimits:
    """The limits in one process: see RateLimits. It has no locks."""

    def __init__(self, sizes: Sizes, clock: Callable[[], float] = time.monotonic) -> None:
        self._sizes = sizes
        self._clock = clock
        # By the whole key, not its name: a key whose limits were changed starts with full buckets.
        self._limits: dict[ApiKey | None, KeyLimits] = {}

    async def admit(self, key: ApiKey | None, spends_pixels: bool = True) -> None:
        """See RateLimits."""
        limits = self._limits_of(key)
        _refuse_if_empty(limits.requests, key, PER_MINUTE)
        if spends_pixels:
            _refuse_if_empty(limits.pixels, key, PER_HOUR)
        if limits.requests:
            limits.requests.take(1)

    async def charge(self, key: ApiKey | None, pixels: int, accepted: bool = False) -> None:
        """See RateLimits."""
        bucket = self._limits_of(key).pixels
        if not accepted:
            _refuse_if_empty(bucket, key, PER_HOUR)
        if bucket:
            bucket.take(pixels)

    def _limits_of(self, key: ApiKey | None) -> KeyLimits:
        if key not in self._limits:
            sizes = self._sizes.of(key)
            self._limits[key] = KeyLimits(
                TokenBucket(sizes.rate, MINUTE, self._clock) if sizes.rate else None,
                TokenBucket(sizes.pixels, HOUR, self._clock) if sizes.pixels else None,
            )
        return self._limits[key]


def _refuse_if_empty(bucket: TokenBucket | None, key: ApiKey | None, unit: str) -> None:
    if bucket and (wait := bucket.seconds_to_next()):
        raise limit_reached(key, bucket.used(), bucket.size, unit, wait)


def limit_reached(key: ApiKey | None, used: int, size: int, unit: str, wait: float) -> ProblemError:
    """The refusal of a request. wait: until there is a token, in seconds."""
    who = f"The API key {key.name!r} has" if key else "All clients together have"
    seconds = math.ceil(wait)
    return ProblemError(
        f"{who} used {used:,} of {size:,} {unit}. Try again in {seconds} s.",
        429,
        {"Retry-After": str(seconds)},
        kind="RateLimited",
    )
