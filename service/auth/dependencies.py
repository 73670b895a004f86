"""Who may ask: a key on every route that is not named as open, or, without any keys, only this machine itself."""

import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from service.auth.api_keys import Key, digest, keys_in, read_keys
from service.auth.rate_limit import RateLimits
from service.problems import ProblemError, describe_problems
from service.settings import Settings, separate
from service.telemetry.logs import log
from service.telemetry.tracing import current

# What anybody may see: that the service is there and well, its page, and its description.
OPEN = frozenset(
    {"/", "/health", "/health/live", "/health/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
)
# localhost, a name of this machine's network, an address; with a port or without. No name that others can own.
LOCAL_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+|[^.:]+)(:\d+)?")


class Keys:
    """The keys as they are now: a file that changes is read again. To be asked on the event loop."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: of the limits. Raises ValueError or OSError saying what is wrong with the keys."""
        self._allowances = RateLimits(settings.key_rate, settings.key_pixels, clock)
        self._path = settings.keys_file
        self._open = settings.open
        self._origins = separate(settings.cors_origins)
        try:
            self._given = keys_in(settings.keys) if settings.keys else ()
        except ValueError as error:
            raise ValueError(f"keys: {error}") from None
        self._in_file: tuple[Key, ...] = ()
        self._stamp: tuple[int, ...] | None = None
        self._fault = ""
        if self.needed and self._open:
            raise ValueError("open is for a service without keys, and this one has some: leave one of them out")
        if self._path:
            self._read(self._path)

    @property
    def needed(self) -> bool:
        """Whether requests must carry one. Also where the file has none: revoking the last lets nobody in."""
        return self._path is not None or bool(self._given)

    def admit(self, headers: Mapping[str, str]) -> Key | None:
        """The key that a request carries, which is counted; None where none is needed.

        Raises Unauthorized, TooMuch, KeysUnreadable; without keys, Forbidden.
        """
        key = self._find(headers) if self.needed else None
        if not self.needed and not self._open:
            self._refuse_strangers(headers)
        current().key = key.name if key else None
        self._allowances.admit(key)
        return key

    def may_change_the_service(self, key: Key | None) -> bool:
        """Whether it is an admin's, or there are no keys and only this machine can ask."""
        return key.admin if key else not self._open

    def charging(self, owner: str, accepted: bool = False) -> Callable[[int], None]:
        """What counts the pixels of images against the limit of the key of that name; see RateLimits.charge."""
        known = (*self._given, *self._in_file)
        key = next((key for key in known if key.name == owner), None)
        return partial(self._allowances.charge, key, accepted=accepted)

    def _find(self, headers: Mapping[str, str]) -> Key:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not secret:
            raise _unauthorized("The request has no API key.")
        came, found = digest(secret), None
        # All of them, and each to its end: the time taken tells nothing of which was nearly right.
        for key in self._now():
            if hmac.compare_digest(key.sha256, came):
                found = key
        if not found:
            raise _unauthorized("The API key is unknown or revoked.")
        return found

    def _now(self) -> tuple[Key, ...]:
        if self._path:
            try:
                self._read(self._path)
            except (ValueError, OSError) as error:
                # Told once, not with every request until it is mended.
                if str(error) != self._fault:
                    log.error("keys unreadable", fault=str(error))
                self._fault = str(error)
                raise ProblemError(
                    "The service cannot read its API keys. Its log has the reason.", 503, kind="KeysUnreadable"
                ) from error
            self._fault = ""
        return (*self._given, *self._in_file)

    def _read(self, path: Path) -> None:
        """Read the file if it is not the one that was read. Raises ValueError or OSError."""
        state = path.stat()
        # Nobody sets the time of a change of state, as they may that of the contents.
        stamp = (state.st_ino, state.st_size, state.st_ctime_ns)
        if stamp == self._stamp:
            return
        self._stamp = None
        keys = read_keys(path)
        if twins := {key.name for key in keys} & {key.name for key in self._given}:
            raise ValueError(f"{path}: there are keys {', '.join(sorted(twins))} in the environment as well")
        self._in_file, self._stamp = keys, stamp

    def _refuse_strangers(self, headers: Mapping[str, str]) -> None:
        """Without keys the service is this machine's own; but its browser may be sent by a page from anywhere.

        Such a page can post without asking first, which the browser tells (Fetch Metadata), or have its own name
        point to this machine (DNS rebinding), which the name tells.
        """
        host = headers.get("host", "")
        if host and not LOCAL_HOST.fullmatch(host):
            raise ProblemError(
                f"A service without API keys answers only to localhost, not to {host[:200]!r}."
                " Set API keys, or start it with --open.",
                403,
            )
        site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
        if site in ("cross-site", "same-site") and origin not in self._origins:
            raise ProblemError(
                f"A service without API keys refuses pages of other sites, here {origin or 'unknown'}."
                " Add the site to cors_origins, set API keys, or start the service with --open.",
                403,
            )


async def allowed(request: Request) -> None:
    """What stands before every route: refuses whoever may not ask; `request.state.key` is then who does."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if path not in OPEN:
        request.state.key = request.state.keys.admit(request.headers)


async def admin(request: Request, first: Annotated[None, Depends(allowed)]) -> None:
    """What stands before routes that change the service itself. Raises Forbidden."""
    key: Key | None = request.state.key
    if not request.state.keys.may_change_the_service(key):
        who = f"The API key {key.name!r} is not an admin key" if key else "This service has no API keys"
        raise ProblemError(f"{who}. {request.method} {request.url.path} needs an admin key.", 403)


def owner(request: Request) -> str:
    """The name of the key that asks, to whom belongs what is made; empty where there are no keys."""
    key: Key | None = request.state.key
    return key.name if key else ""


def _unauthorized(detail: str) -> ProblemError:
    how = "Send a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
    return ProblemError(f"{detail} {how}", 401, {"WWW-Authenticate": "Bearer"})


def refuse_unguarded(host: str, settings: Settings) -> None:
    """Raises ValueError where other machines would reach a service that has no keys, and nobody said --open."""
    if settings.open or settings.keys_file or settings.keys or _is_loopback(host):
        return
    raise ValueError(
        f"at --host {host} others can reach the service, and it has no keys: make one with `denoise keys add NAME"
        " --keys-file FILE` and set DENOISE_KEYS_FILE=FILE, or say --open to answer whoever comes"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def describe_keys(app: FastAPI, keys: Keys) -> None:
    """Have the OpenAPI description say what needs a key, and how it is refused."""
    plain = app.openapi
    refusals = describe_problems(
        {401: "No API key, or an unknown one.", 429: "The API key has reached its limit."}
    )

    def openapi() -> dict[str, Any]:
        schema = plain()
        if keys.needed:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in schema["paths"].items():
            for operation in operations.values() if path not in OPEN else ():
                operation["responses"] |= {str(status): refusal for status, refusal in refusals.items()}
                if keys.needed:
                    operation["security"] = [{"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
