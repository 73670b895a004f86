"""How much one key may ask for: so many requests a minute, so many pixels an hour."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.auth.api_keys import Key
from service.problems import ProblemError

MINUTE, HOUR = 60, 3600


class Bucket:
    """A token bucket: a whole size at once, and refilled evenly within so many seconds.

    clock: seconds that only go forward, whatever happens to the time of day.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = size
        self._speed = size / seconds
        self._clock = clock
        self._left, self._at = float(size), clock()

    def left(self) -> float:
        """How much there is; below 0, what is owed."""
        now = self._clock()
        self._left = min(self.size, self._left + (now - self._at) * self._speed)
        self._at = now
        return self._left

    def take(self, amount: int) -> None:
        """Take so much, more than there is too."""
        self._left = self.left() - amount

    def wait(self) -> float:
        """Seconds until there is one."""
        return max(0.0, (1 - self.left()) / self._speed)

    def used(self) -> int:
        """What was taken and is not refilled, rounded up."""
        return math.ceil(self.size - self.left())


@dataclass(frozen=True)
class Allowance:
    """What is left to one key. None: there is no limit."""

    requests: Bucket | None
    pixels: Bucket | None


class RateLimits:
    """What is left to each key. To be asked on the event loop, which does one thing at a time."""

    def __init__(self, rate: int | None, pixels: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """rate: requests a minute, pixels: an hour, of keys that have no limits of their own."""
        self._rate = rate
        self._pixels = pixels
        self._clock = clock
        # By all that is known of a key, so that one whose limits were changed begins anew.
        self._allowances: dict[Key | None, Allowance] = {}

    def admit(self, key: Key | None) -> None:
        """Count a request; None is whoever comes without a key, all together. Raises TooMuch."""
        allowance = self._allowance(key)
        _refuse_if_empty(allowance.requests, key, "requests a minute")
        _refuse_if_empty(allowance.pixels, key, "pixels an hour")
        if allowance.requests:
            allowance.requests.take(1)

    def charge(self, key: Key | None, pixels: int, accepted: bool = False) -> None:
        """Count an image's pixels, which are known only once it is read. Raises TooMuch if none were left.

        What goes beyond those that were left is owed, and the next one waits the longer. accepted: it is done in
        any case, for its sender was told so.
        """
        bucket = self._allowance(key).pixels
        if not accepted:
            _refuse_if_empty(bucket, key, "pixels an hour")
        if bucket:
            bucket.take(pixels)

    def _allowance(self, key: Key | None) -> Allowance:
        if key not in self._allowances:
            rate = key.rate if key and key.rate else self._rate
            pixels = key.pixels if key and key.pixels else self._pixels
            self._allowances[key] = Allowance(
                Bucket(rate, MINUTE, self._clock) if rate else None,
                Bucket(pixels, HOUR, self._clock) if pixels else None,
            )
        return self._allowances[key]


def _refuse_if_empty(bucket: Bucket | None, key: Key | None, what: str) -> None:
    if bucket and (wait := bucket.wait()):
        who = f"The API key {key.name!r} has" if key else "All clients together have"
        seconds = math.ceil(wait)
        raise ProblemError(
            f"{who} used {bucket.used():,} of {bucket.size:,} {what}. Try again in {seconds} s.",
            429,
            {"Retry-After": str(seconds)},
            kind="RateLimited",
        )
