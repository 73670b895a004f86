"""Error answers: every error becomes an `application/problem+json` document (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from engine.imageio.formats import (
    BrokenImage,
    CannotWrite,
    ImageTooLarge,
    NotAnImage,
    NotCameraRaw,
    PageNotFound,
    TooManyPages,
    TooManyPixels,
    UnsupportedImage,
)
from engine.imageio.sandbox.decoder import Crashed, TooLargeToDecode, TooSlowToDecode
from service.settings import variable
from service.telemetry.logs import log
from service.telemetry.tracing import current_request

# The engine does not know HTTP. This table gives the status for each of its errors.
ENGINE_STATUS: Mapping[type[Exception], int] = {
    NotAnImage: 400,
    BrokenImage: 400,
    Crashed: 400,
    ImageTooLarge: 413,
    TooManyPixels: 413,
    TooManyPages: 413,
    TooLargeToDecode: 413,
    UnsupportedImage: 415,
    PageNotFound: 422,
    NotCameraRaw: 422,
    CannotWrite: 422,
    TooSlowToDecode: 422,
}
# The settings that are the limits of some of them.
ENGINE_LIMITS: Mapping[type[Exception], str] = {
    TooManyPixels: "max_pixels",
    TooManyPages: "max_pages",
    TooLargeToDecode: "decode_memory",
    TooSlowToDecode: "decode_seconds",
}
# Commands without the limits that these settings are.
COMMANDS_WITHOUT_LIMIT: Mapping[str, str] = {
    "max_bytes": "denoise run FILE",
    "max_pixels": "denoise run FILE",
    "max_pages": "denoise run FILE",
    "image_memory": "denoise run FILE",
    "max_batch_bytes": "denoise run FOLDER -o OUT/",
    "max_batch_files": "denoise run FOLDER -o OUT/",
    "adapt_minutes": "denoise adapt FOLDER --out FILE",
    "adapt_bytes": "denoise adapt FOLDER --out FILE",
    "adapt_memory": "denoise adapt FOLDER --out FILE",
}
# Every answer gets these headers, unless it sets them itself.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # Another site may embed an image from here only if CORS lets it read the image too.
    "Cross-Origin-Resource-Policy": "same-origin",
    # Shared caches do not look at X-API-Key, so they must not store an answer.
    "Cache-Control": "private, no-cache",
}
RETRY_SECONDS = 30  # Retry-After where the service cannot estimate the wait
# The errors of a busy service, for the OpenAPI description.
BUSY_ERRORS = {
    503: "The queue or the memory is full, and Retry-After gives the seconds to wait. Or the model is unusable.",
    504: "The image was not done before the deadline.",
}


class ProblemError(Exception):
    """An error that the client gets as a problem document. The detail says what came and what is accepted."""

    # Subclasses set these; a caller may override them for one error.
    status: int = 400
    headers: Mapping[str, str] = {}

    def __init__(
        self,
        detail: str,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        kind: str | None = None,
    ) -> None:
        """kind: name of the error in the log and in the metric denoise_errors; the default is the class's name,
        or the phrase of the status, like `NotFound`.
        """
        super().__init__(detail)
        if status is not None:
            self.status = status
        if headers is not None:
            self.headers = headers
        self.kind = kind or (_phrase(self.status) if type(self) is ProblemError else type(self).__name__)


class LimitExceeded(ProblemError):
    """More than a setting allows. Its detail names the setting."""

    status = 413

    def __init__(self, detail: str, setting: str) -> None:
        """setting: the field of Settings."""
        super().__init__(f"{detail} {limit_note(setting)}")


def limit_note(setting: str) -> str:
    """For the operator, who can change the limit, and for people with a command line. setting: of Settings."""
    command = COMMANDS_WITHOUT_LIMIT.get(setting)
    way_out = f" The command `{command}` has no such limit." if command else ""
    return f"The limit is the setting {variable(setting)}.{way_out}"


class Problem(BaseModel):
    """A problem document of RFC 9457. The type is about:blank, so the title is the phrase of the status."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str

    @classmethod
    def of(cls, status: int, detail: str) -> "Problem":
        """Fill in the title."""
        return cls(title=HTTPStatus(status).phrase, status=status, detail=detail)


class ProblemResponse(JSONResponse):
    """An answer with a problem document."""

    media_type = "application/problem+json"

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """more: further members of the document."""
        self.problem = Problem.of(status, detail)
        super().__init__({**self.problem.model_dump(), **(more or {})}, status, headers)


def describe_problems(descriptions: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of a route's errors, by status."""
    # Defined once, because a job's answer holds it, so generators of clients make one class of it.
    content = {ProblemResponse.media_type: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": text, "content": content} for status, text in descriptions.items()}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error as a problem: the service's, the engine's, the framework's, and bugs."""
    # Exception stands for bugs. The server raises it again after the answer, and logs it with its traceback.
    types: list[type[Exception]] = [ProblemError, *ENGINE_STATUS, MemoryError, Exception]
    for type_ in types:
        app.add_exception_handler(type_, _problem)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(ClientDisconnect, _disconnected)


def problem_of(error: Exception) -> ProblemResponse:
    """The answer to an error. Also records the error for the request's log line.

    An error that is neither the service's nor the engine's is a bug: the client gets no details of it.
    """
    record = current_request()
    record.error = error.kind if isinstance(error, ProblemError) else type(error).__name__
    if isinstance(error, ProblemError):
        return ProblemResponse(error.status, str(error), error.headers)
    if type(error) in ENGINE_STATUS:
        setting = ENGINE_LIMITS.get(type(error))
        detail = f"{error} {limit_note(setting)}" if setting else str(error)
        return ProblemResponse(ENGINE_STATUS[type(error)], detail)
    if isinstance(error, MemoryError):
        log.error("out of memory", error=str(error))
        detail = "The service does not have enough memory for the image now. Try again later."
        return ProblemResponse(503, detail, {"Retry-After": str(RETRY_SECONDS)})
    detail = f"Internal server error. Quote request ID {record.request_id} when you report it."
    # The framework sends this answer outside of the middleware that adds headers.
    return ProblemResponse(500, detail, {"X-Request-ID": record.request_id, **SECURITY_HEADERS})


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")


# All handlers are `async`. The framework would run plain functions in a worker thread, and wait for a free one.
async def _problem(request: Request, error: Exception) -> Response:
    return problem_of(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    """The framework's own errors: an unknown path, a wrong method, a malformed form."""
    assert isinstance(error, HTTPException)
    current_request().error = _phrase(error.status_code)
    headers = error.headers
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (route := request.scope.get("route")):
        # The framework names only the methods of the first route with this path.
        routes = [each for each in iter_route_contexts(request.app.routes) if each.path == route.path]
        methods = {method for each in routes for method in each.methods or ()}
        # See HeadRequests.
        methods |= {"HEAD"} if "GET" in methods else set()
        headers = {"Allow": ", ".join(sorted(methods))}
    return ProblemResponse(error.status_code, f"{request.method} {request.url.path}: {error.detail}", headers)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    current_request().error = type(error).__name__
    faults = (f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors())
    return ProblemResponse(422, "; ".join(faults))


async def _disconnected(request: Request, error: Exception) -> Response:
    """The client has closed the connection. This is not a bug, so it gets no traceback."""
    current_request().error = type(error).__name__
    return ProblemResponse(400, "The client closed the connection before the image was done.")
