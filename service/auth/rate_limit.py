"""Rate limits of API keys: requests a minute and pixels an hour."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.auth.api_keys import ApiKey
from service.problems import ProblemError

MINUTE = 60  # seconds
HOUR = 3600  # seconds


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


class RateLimits:
    """The limits of all API keys. Use it on the event loop only: it has no locks."""

    def __init__(self, rate: int | None, pixels: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """rate: requests a minute, and pixels: pixels an hour, for keys without limits of their own."""
        self._rate = rate
        self._pixels = pixels
        self._clock = clock
        # By the whole key, not its name: a key whose limits were changed starts with full buckets.
        self._limits: dict[ApiKey | None, KeyLimits] = {}

    def admit(self, key: ApiKey | None, spends_pixels: bool = True) -> None:
        """Count a request. Without keys (None) all clients share one limit. Raises ProblemError, status 429.

        spends_pixels: whether the request is refused if no pixels are left.
        """
        limits = self._limits_of(key)
        _refuse_if_empty(limits.requests, key, "requests a minute")
        if spends_pixels:
            _refuse_if_empty(limits.pixels, key, "pixels an hour")
        if limits.requests:
            limits.requests.take(1)

    def charge(self, key: ApiKey | None, pixels: int, accepted: bool = False) -> None:
        """Count an image's pixels, which are known only after its header is read.

        An image may take more pixels than are left. Further requests are then refused until pixels are left.
        accepted: the client was told that the image will be done, so do not refuse it.
        Raises ProblemError with status 429 if no pixels are left.
        """
        bucket = self._limits_of(key).pixels
        if not accepted:
            _refuse_if_empty(bucket, key, "pixels an hour")
        if bucket:
            bucket.take(pixels)

    def _limits_of(self, key: ApiKey | None) -> KeyLimits:
        if key not in self._limits:
            rate = key.rate if key and key.rate else self._rate
            pixels = key.pixels if key and key.pixels else self._pixels
            self._limits[key] = KeyLimits(
                TokenBucket(rate, MINUTE, self._clock) if rate else None,
                TokenBucket(pixels, HOUR, self._clock) if pixels else None,
            )
        return self._limits[key]


def _refuse_if_empty(bucket: TokenBucket | None, key: ApiKey | None, unit: str) -> None:
    if bucket and (wait := bucket.seconds_to_next()):
        who = f"The API key {key.name!r} has" if key else "All clients together have"
        seconds = math.ceil(wait)
        raise ProblemError(
            f"{who} used {bucket.used():,} of {bucket.size:,} {unit}. Try again in {seconds} s.",
            429,
            {"Retry-After": str(seconds)},
            kind="RateLimited",
        )
