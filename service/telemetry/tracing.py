"""Request tracing: request IDs, trace context (W3C Trace Context, 2021), and the record of each request."""

import re
import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

_REQUEST_ID = re.compile(r"[0-9A-Za-z._:+/=-]{1,64}")
# Later versions of the standard keep these fields at the start, and may add others after a hyphen.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def request_id(sent: str | None) -> str:
    """The client's ID if it is short and has only safe characters, else a new one."""
    return sent if sent and _REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)


@dataclass(frozen=True)
class Span:
    """The service's part of a trace. All IDs are hexadecimal. parent_id: the caller's span, if there is one."""

    trace_id: str
    span_id: str
    parent_id: str | None


def start_span(traceparents: Sequence[str]) -> Span:
    """A new span in the trace of the `traceparent` header. Without one valid header, in a new trace."""
    span_id = secrets.token_hex(8)
    if len(traceparents) == 1 and (found := _TRACEPARENT.fullmatch(traceparents[0])):
        version, trace_id, parent_id, more = found.groups()
        valid = version != "ff" and (version != "00" or more is None)
        # The standard forbids IDs of zeros.
        if valid and trace_id.strip("0") and parent_id.strip("0"):
            return Span(trace_id, span_id, parent_id)
    return Span(secrets.token_hex(16), span_id, None)


@dataclass
class RequestRecord:
    """Facts about a request, collected for its line in the log.

    models: digest by name of each model that was used. key: name of the API key. error: kind of the error.
    """

    request_id: str = ""
    pixels: int = 0
    models: dict[str, str] = field(default_factory=dict)
    key: str | None = None
    error: str | None = None


_record: ContextVar[RequestRecord | None] = ContextVar("record", default=None)


def begin_request(record: RequestRecord) -> None:
    """Make this the record of the current task, and of the tasks that it starts."""
    _record.set(record)


def current_request() -> RequestRecord:
    """The record of the current request; outside of a request, a new record that nobody reads."""
    return _record.get() or RequestRecord()
