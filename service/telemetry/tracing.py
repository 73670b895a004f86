"""Which request this is, for its sender, the log and a trace (W3C Trace Context, 2021); what is known of it."""

import re
import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

_ID = re.compile(r"[0-9A-Za-z._:+/=-]{1,64}")
# Of a later version what we know stands first, and more may follow a hyphen.
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def request_id(sent: str | None) -> str:
    """The id that was sent, if it is short and safe to write anywhere; else a new one."""
    return sent if sent and _ID.fullmatch(sent) else secrets.token_hex(8)


@dataclass(frozen=True)
class Span:
    """Our part of a trace; parent_id: the part that asked for it, if any did. Each in hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_id: str | None


def span(traceparents: Sequence[str]) -> Span:
    """A new part of the trace that the one header `traceparent` names; of a new one if it names none."""
    ours = secrets.token_hex(8)
    if len(traceparents) == 1 and (found := _PARENT.fullmatch(traceparents[0])):
        version, trace_id, parent_id, more = found.groups()
        known = version != "ff" and (version != "00" or more is None)
        # All zeros are no id.
        if known and trace_id.strip("0") and parent_id.strip("0"):
            return Span(trace_id, ours, parent_id)
    return Span(secrets.token_hex(16), ours, None)


@dataclass
class Record:
    """What those who work on a request find out about it, for the line it gets in the log.

    models: the digest of each that was used, by name; key: the name of the sender's; error: what was wrong.
    """

    request_id: str = ""
    pixels: int = 0
    models: dict[str, str] = field(default_factory=dict)
    key: str | None = None
    error: str | None = None


_record: ContextVar[Record | None] = ContextVar("record", default=None)


def begin(record: Record) -> None:
    """Have this task, and what it starts, work on that request."""
    _record.set(record)


def current() -> Record:
    """The record of the request that is worked on; outside of one, a record that nobody reads."""
    return _record.get() or Record()
