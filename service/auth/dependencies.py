"""Authentication: the dependencies that check API keys and admin rights."""

import hmac
import ipaddress
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request

from service.auth.api_keys import ApiKey, digest, parse_keys, read_keys
from service.auth.rate_limit import Charge, LocalRateLimits, RateLimits, Sizes
from service.problems import ProblemError, ProblemResponse, describe_problems
from service.settings import Settings, split_list, variable
from service.telemetry.logs import log
from service.telemetry.tracing import current_request

# Paths that need no API key: the health of the service, the page, and the API description.
PUBLIC_PATHS = frozenset(
    {"/", "/health", "/health/live", "/health/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
)
# Paths that spend no pixels of an API key, so they are open to a key that has none left.
PIXEL_FREE_PATHS = frozenset({"/preview"})
# The ports that an origin does not name.
DEFAULT_PORTS = {"http": 80, "https": 443}
# The schemas of the framework's errors, in whose place a problem document is sent.
_FRAMEWORK_ERRORS = ("HTTPValidationError", "ValidationError")
# localhost, a name without dots, or an address, each with or without a port. Nobody can register such a name.
LOCAL_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+|[^.:]+)(:\d+)?")


class ApiKeys:
    """The API keys of the service. A key file that changes is read again. Use it on the event loop only."""

    def __init__(self, settings: Settings, rate_limits: RateLimits | None = None) -> None:
        """rate_limits: if not those of this process. Raises ValueError or OSError if the keys cannot be used."""
        self._rate_limits = rate_limits or LocalRateLimits(Sizes(settings.key_rate, settings.key_pixels))
        self._path = settings.keys_file
        self._open = settings.open
        self._origins = split_list(settings.cors_origins)
        try:
            self._from_settings = parse_keys(settings.keys) if settings.keys else ()
        except ValueError as error:
            raise ValueError(f"keys: {error}") from None
        self._from_file: tuple[ApiKey, ...] = ()
        self._file_version: tuple[int, ...] | None = None
        self._last_fault = ""
        if self.required and self._open:
            raise ValueError("open is for a service without keys, but keys are set: leave one of them out")
        if self._path:
            self._read_file(self._path)

    @property
    def required(self) -> bool:
        """Whether requests need a key. An empty key file counts: then nobody gets in."""
        return self._path is not None or bool(self._from_settings)

    async def admit(self, headers: Mapping[str, str], spends_pixels: bool = True) -> ApiKey | None:
        """The key of a request, after counting the request against its limit; None if no key is required.

        spends_pixels: whether the request is refused if the key has no pixels left.
        Raises ProblemError with status 401, 429 or 503; without keys, 403.
        """
        key = self._find(headers) if self.required else None
        if not self.required and not self._open:
            self._refuse_strangers(headers)
        current_request().key = key.name if key else None
        await self._rate_limits.admit(key, spends_pixels)
        return key

    def may_administer(self, key: ApiKey | None) -> bool:
        """Whether it is an admin key, or the service has no keys and only this machine can reach it."""
        return key.admin if key else not self._open

    def charger(self, owner: str, accepted: bool = False) -> Charge:
        """A function that charges pixels to the key of that name. See RateLimits.charge."""
        keys = (*self._from_settings, *self._from_file)
        key = next((key for key in keys if key.name == owner), None)
        return partial(self._rate_limits.charge, key, accepted=accepted)

    def _find(self, headers: Mapping[str, str]) -> ApiKey:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not secret:
            raise _unauthorized("The request has no API key.")
        sha256 = digest(secret)
        found = None
        # Compare with every key, each to its end, so that the time does not tell which key nearly matched.
        for key in self._current():
            if hmac.compare_digest(key.sha256, sha256):
                found = key
        if not found:
            raise _unauthorized("The API key is unknown or revoked.")
        return found

    def _current(self) -> tuple[ApiKey, ...]:
        if self._path:
            try:
                self._read_file(self._path)
            except (ValueError, OSError) as error:
                # Log each fault once, not with every request.
                if str(error) != self._last_fault:
                    log.error("cannot read API keys", fault=str(error))
                self._last_fault = str(error)
                raise ProblemError(
                    "The service cannot read its API keys. Its log has the reason.", 503, kind="KeysUnreadable"
                ) from error
            self._last_fault = ""
        return (*self._from_settings, *self._from_file)

    def _read_file(self, path: Path) -> None:
        """Read the file if it has changed. Raises ValueError or OSError."""
        state = path.stat()
        # Unlike the time of modification, ctime cannot be set by a user.
        version = (state.st_ino, state.st_size, state.st_ctime_ns)
        if version == self._file_version:
            return
        self._file_version = None
        keys = read_keys(path)
        if duplicates := {key.name for key in keys} & {key.name for key in self._from_settings}:
            raise ValueError(f"{path}: DENOISE_KEYS also has keys named {', '.join(sorted(duplicates))}")
        self._from_file, self._file_version = keys, version

    def _refuse_strangers(self, headers: Mapping[str, str]) -> None:
        """Without keys, only this machine may use the service. A foreign web page could use it through a browser.

        Such a page can post without a preflight request, which the Fetch Metadata headers show, or in old
        browsers the Origin header. Or its own name can point to this machine (DNS rebinding), which the Host
        header shows.
        """
        host = headers.get("host", "")
        if host and not LOCAL_HOST.fullmatch(host):
            raise ProblemError(
                f"A service without API keys answers only to localhost, not to {host[:200]!r}."
                " Set API keys, or start it with --open.",
                403,
            )
        site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
        is_foreign = site in ("cross-site", "same-site") or (
            site == "none" and origin is not None and not _is_origin_of(origin, host)
        )
        if is_foreign and origin not in self._origins:
            raise ProblemError(_foreign_words(origin), 403)


def _foreign_words(origin: str | None) -> str:
    """Why a page of another site is refused, and what to do. origin: the Origin header."""
    words = "A service without API keys refuses pages of other sites"
    if origin and re.fullmatch(r"https?://[^/\s]+", origin, re.IGNORECASE):
        return (
            f"{words}, here {origin[:200]}. Add the site to {variable('cors_origins')}, set API keys, or start "
            "the service with --open."
        )
    header = "has no Origin header"
    if origin is not None:
        header = f"names no site: its Origin header is {origin[:200]!r}"
    return (
        f"{words}, and this request {header}. A program should send neither Origin nor Sec-Fetch-Site. For "
        f"a web page, send its origin and add that to {variable('cors_origins')}, set API keys, or start the "
        "service with --open."
    )


def _is_origin_of(origin: str, host: str) -> bool:
    """Whether a page of this origin was served by the host and port of a Host header, or by a proxy for it.

    The origin is `null` for a page that hides where it comes from.
    """
    try:
        page, own = urlsplit(origin), urlsplit(f"//{host}")
        default = DEFAULT_PORTS.get(page.scheme)
        same_port = (page.port or default) == (own.port or default)
        return same_port and page.hostname is not None and page.hostname == own.hostname
    except ValueError:
        return False


async def authenticate(request: Request) -> None:
    """Dependency of every route. Sets `request.state.key`, and refuses requests without a valid key."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if path not in PUBLIC_PATHS:
        request.state.key = await request.state.api_keys.admit(request.headers, path not in PIXEL_FREE_PATHS)


async def require_admin(request: Request, authenticated: Annotated[None, Depends(authenticate)]) -> None:
    """Dependency of routes that change the service itself. Raises ProblemError with status 403."""
    refuse_without_admin(request, f"{request.method} {request.url.path}")


def refuse_without_admin(request: Request, what: str) -> None:
    """Raises ProblemError with status 403 unless the request has an admin key. what: is asked for, in words."""
    key: ApiKey | None = request.state.key
    if not request.state.api_keys.may_administer(key):
        who = f"The API key {key.name!r} is not an admin key" if key else "This service has no API keys"
        raise ProblemError(f"{who}. {what} needs an admin key.", 403)


def owner(request: Request) -> str:
    """The name of the request's key, which owns the jobs that it creates; empty if the service has no keys."""
    key: ApiKey | None = request.state.key
    return key.name if key else ""


def _unauthorized(detail: str) -> ProblemError:
    how = "Send a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
    return ProblemError(f"{detail} {how}", 401, {"WWW-Authenticate": "Bearer"})


def refuse_unprotected(host: str, settings: Settings) -> None:
    """Raises ValueError if other machines could reach a service that has neither keys nor --open."""
    if settings.open or settings.keys_file or settings.keys or _is_loopback(host):
        return
    raise ValueError(
        f"with --host {host} other machines can reach the service, but it has no keys: create one with"
        " `denoise keys add NAME --keys-file FILE` and set DENOISE_KEYS_FILE=FILE, or use --open to answer anyone"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def describe_authentication(app: FastAPI, api_keys: ApiKeys) -> None:
    """Add to the OpenAPI description which routes need a key, and how a request is refused."""
    openapi_of_routes = app.openapi
    refusals = describe_problems(
        {
            401: "No API key, or an unknown one.",
            422: "An unknown parameter.",
            429: "The API key has reached its limit. See Retry-After.",
            503: "The service cannot read its keys, or its limits are in a database that is away.",
        }
    )

    def openapi() -> dict[str, Any]:
        schema = openapi_of_routes()
        for name in _FRAMEWORK_ERRORS:
            schema["components"]["schemas"].pop(name, None)
        if api_keys.required:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in schema["paths"].items():
            for operation in operations.values() if path not in PUBLIC_PATHS else ():
                for status, refusal in refusals.items():
                    described = operation["responses"].setdefault(str(status), refusal)
                    # The framework describes its own errors, which are not answered: see add_error_handlers.
                    if ProblemResponse.media_type not in described["content"]:
                        operation["responses"][str(status)] = refusal
                if api_keys.required:
                    operation["security"] = [{"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
