"""Every error that is answered, as `application/problem+json` (RFC 9457): one shape, in words."""

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
    PageNotFound,
    UnsupportedImage,
)
from engine.imageio.sandbox.decoder import Crashed, TooLargeToDecode, TooSlowToDecode
from service.telemetry.logs import log
from service.telemetry.tracing import current

# The engine knows no HTTP: what its errors mean here.
ENGINE_STATUS: Mapping[type[Exception], int] = {
    NotAnImage: 400,
    BrokenImage: 400,
    ImageTooLarge: 413,
    UnsupportedImage: 415,
    PageNotFound: 422,
    CannotWrite: 422,
    Crashed: 400,
    TooLargeToDecode: 413,
    TooSlowToDecode: 422,
}
# Every answer has them, unless it says otherwise. A response to an unexpected error passes no middleware.
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # No other site may embed an image from here, unless it may read it too.
    "Cross-Origin-Resource-Policy": "same-origin",
    # Shared caches know nothing of X-API-Key, so they must not store an answer.
    "Cache-Control": "private, no-cache",
}
# When to come again, in seconds, where nobody can know.
AGAIN = {"Retry-After": "30"}
# What whoever works on images answers, as OpenAPI describes it.
BUSY = {
    503: "More images wait than may, or memory is short. Retry-After says when to come again.",
    504: "Not done by the deadline.",
}


class ClientError(Exception):
    """What a request got wrong, in words for who sent it: what came, and what is taken."""

    status = 400
    # What the answer says beside it: Retry-After, say.
    headers: Mapping[str, str] = {}


class Problem(BaseModel):
    """An RFC 9457 problem. Its type is about:blank, so its title is the status's own."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str

    @classmethod
    def of(cls, status: int, detail: str) -> "Problem":
        """That status, in words."""
        return cls(title=HTTPStatus(status).phrase, status=status, detail=detail)


class ProblemResponse(JSONResponse):
    """The answer that says what went wrong."""

    media_type = "application/problem+json"

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.problem = Problem.of(status, detail)
        super().__init__(self.problem.model_dump(), status, headers)


def documented(descriptions: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of the errors a route answers, by status."""
    content = {ProblemResponse.media_type: {"schema": Problem.model_json_schema()}}
    return {status: {"description": text, "content": content} for status, text in descriptions.items()}


def answer_errors(app: FastAPI) -> None:
    """Have the application answer every error as a problem: ours, the engine's, the framework's, and bugs."""
    # Exception is a bug: the server raises it again once the answer is sent, and so logs it with its traceback.
    types: list[type[Exception]] = [ClientError, *ENGINE_STATUS, MemoryError, Exception]
    for type_ in types:
        app.add_exception_handler(type_, _problem)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _gone)


def problem_of(error: Exception) -> ProblemResponse:
    """What is answered to it, and noted for its request's line in the log.

    What is neither ours nor the engine's is a bug, of which only the log tells more.
    """
    record = current()
    record.error = type(error).__name__
    if isinstance(error, ClientError):
        return ProblemResponse(error.status, str(error), error.headers)
    if type(error) in ENGINE_STATUS:
        return ProblemResponse(ENGINE_STATUS[type(error)], str(error))
    if isinstance(error, MemoryError):
        log.error("out of memory", error=str(error))
        return ProblemResponse(503, "There is not enough memory for the image just now.", AGAIN)
    told = f"A mistake of ours, not of yours. It is in the server's log, for request {record.request_id}."
    # The framework sends it from outside of what adds headers to all other answers.
    return ProblemResponse(500, told, {"X-Request-ID": record.request_id, **SAFE_HEADERS})


# `async`, all of them: for others the framework takes a thread, for which they would have to wait.
async def _problem(request: Request, error: Exception) -> Response:
    return problem_of(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    """The framework's own: no such address, a method it does not take, a body that is no form."""
    assert isinstance(error, HTTPException)
    current().error = HTTPStatus(error.status_code).phrase.replace(" ", "")
    headers = error.headers
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (route := request.scope.get("route")):
        # Of all routes of that path: the framework tells of the first alone.
        routes = [each for each in iter_route_contexts(request.app.routes) if each.path == route.path]
        headers = {"Allow": ", ".join(sorted({method for each in routes for method in each.methods or ()}))}
    return ProblemResponse(error.status_code, f"{request.method} {request.url.path}: {error.detail}", headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    current().error = type(error).__name__
    faults = (f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors())
    return ProblemResponse(422, "; ".join(faults))


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads this: the client has closed the connection. It is no bug, and needs no traceback."""
    current().error = type(error).__name__
    return ProblemResponse(400, "The connection was closed before the image was done.")
