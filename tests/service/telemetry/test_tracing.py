"""Request IDs and trace context."""

import re

import pytest

from service.telemetry.tracing import RequestRecord, current_request, request_id, start_span

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize("sent", ["a", "9a8b-7c.6_5", "Root=1-67891233-abcdef", "x" * 64])
def test_a_short_safe_id_is_kept(sent):
    assert request_id(sent) == sent


@pytest.mark.parametrize("sent", [None, "", "x" * 65, "a b", 'a"b', "a\nb", "ü", "<a>"])
def test_an_unsafe_id_is_replaced(sent):
    first, second = request_id(sent), request_id(sent)

    assert re.fullmatch("[0-9a-f]{16}", first)
    assert first != second


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-00",
        f"cc-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-more",
    ],
)
def test_a_trace_is_continued_by_a_new_span(header):
    ours = start_span([header])

    assert (ours.trace_id, ours.parent_id) == (TRACE, PARENT)
    assert re.fullmatch("[0-9a-f]{16}", ours.span_id)
    assert ours.span_id != PARENT


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}"],
        [f"00-{TRACE}-{PARENT}-01-more"],
        [f"00-{TRACE}-{PARENT}-01 "],
        [f"cc-{TRACE}-{PARENT}-01more"],
        [f"ff-{TRACE}-{PARENT}-01"],
        [f"0-{TRACE}-{PARENT}-01"],
        [f"00-{TRACE.upper()}-{PARENT}-01"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE}-{PARENT}-0x"],
    ],
)
def test_an_invalid_header_starts_a_new_trace(headers):
    ours = start_span(headers)

    assert re.fullmatch("[0-9a-f]{32}", ours.trace_id)
    assert ours.trace_id != TRACE
    assert ours.parent_id is None


def test_outside_a_request_nothing_is_recorded():
    current_request().pixels += 5

    assert current_request() == RequestRecord()
