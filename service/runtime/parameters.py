"""Parameters of a request: those of its query, and those in the fields of its form."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from engine.imageio.formats import did_you_mean
from service.auth.dependencies import PUBLIC_PATHS
from service.problems import ProblemError

Params = TypeVar("Params", bound=BaseModel)

# How much of a name or value from the request an error repeats, in characters.
SHOWN = 100


class UnknownParameter(ProblemError):
    """A parameter that the route does not take."""

    status = 422


class AmbiguousParameter(ProblemError):
    """A parameter with two different values."""

    status = 422


async def refuse_unknown_parameters(request: Request) -> None:
    """Dependency of every route. Raises UnknownParameter or AmbiguousParameter.

    A misspelt parameter would otherwise have no effect, and nobody would notice. What is public is exempt:
    monitors and caches add parameters of their own.
    """
    given = request.query_params
    path = request.scope["route"].path
    if not given or path in PUBLIC_PATHS:
        return
    # The API's own description, so a route need not list its parameters a second time.
    described = request.app.openapi()["paths"].get(path, {}).get(request.method.lower())
    if described is None:
        return
    known = [each["name"] for each in described.get("parameters", ()) if each["in"] == "query"]
    for name in given:
        if name not in known:
            raise _unknown(name, known, request)
        values = given.getlist(name)
        if len(set(values)) > 1:
            shown = " and as ".join(repr(value[:SHOWN]) for value in values[:2])
            raise AmbiguousParameter(f"The query has the parameter {name!r} twice, as {shown}. Send it once.")


def with_fields(params: Params, request: Request, fields: Mapping[str, str]) -> Params:
    """The parameters of the request's query together with those in the fields of its form.

    params: those of the query. An empty field counts as missing: browsers send inputs that were left empty.
    Raises UnknownParameter, AmbiguousParameter, or RequestValidationError for an invalid value.
    """
    known = type(params).model_fields
    for name in fields:
        if name not in known:
            raise _unknown(name, known, request)
    given = {name: value for name, value in fields.items() if value}
    try:
        parsed = type(params).model_validate(given)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise RequestValidationError([{**fault, "loc": ("form", *fault["loc"])} for fault in faults]) from None
    for name, value in given.items():
        if name in request.query_params and getattr(params, name) != getattr(parsed, name):
            other = request.query_params[name][:SHOWN]
            raise AmbiguousParameter(
                f"The parameter {name!r} is {other!r} in the query and {value[:SHOWN]!r} in the form. "
                "Send it once."
            )
    return params.model_copy(update={name: getattr(parsed, name) for name in given})


def _unknown(name: str, known: Collection[str], request: Request) -> UnknownParameter:
    route = f"{request.method} {request.url.path}"
    shown = name[:SHOWN]
    takes = f"{route} takes: {', '.join(known)}." if known else f"{route} takes no parameters."
    return UnknownParameter(f"There is no parameter {shown!r}.{did_you_mean(shown, known)} {takes}")
