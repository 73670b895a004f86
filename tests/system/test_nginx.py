"""The shipped nginx configuration, before stand-ins for replicas: what is repeated, passed on and bounded."""

import http.client
import json
import time
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.nginx import MISSING, NGINX, free_port, proxied
from tests.support.stubs import busy, cut, silent, stub, unreachable_port, well

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)

PURE = ["/denoise", "/denoise/batch", "/estimate", "/preview"]
KEY = {"Idempotency-Key": "one"}


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()


class Setup:
    """nginx in front of two stubs."""

    def __init__(self, nginx, first, second):
        self.nginx, self.first, self.second = nginx, first, second

    def ask(self, method, path, headers=(), body=b"image"):
        connection = http.client.HTTPConnection("127.0.0.1", self.nginx.port, timeout=30)
        try:
            connection.request(method, path, body if method == "POST" else None, dict(headers))
            return Answer(connection.getresponse())
        finally:
            connection.close()

    @property
    def requests(self):
        return [*self.first.requests, *self.second.requests]

    def logged(self):
        """The last line of the log, which nginx writes after the client has the answer."""
        for _ in range(100):
            if self.nginx.log:
                return self.nginx.log[-1]
            time.sleep(0.02)
        raise AssertionError("nginx has logged nothing")


@pytest.fixture
def setup(tmp_path):
    """setup(behaviour of the first, of the second, *changes of the configuration)"""
    with ExitStack() as stack:

        def make(first, second, *changes):
            stubs = [stack.enter_context(stub(each)) for each in (first, second)]
            ports = [each.port for each in stubs]
            return Setup(stack.enter_context(proxied(tmp_path / "nginx", ports, *changes)), *stubs)

        yield make


def either(first, second):
    """Two behaviours in turns, whichever stub is asked first."""
    turns = iter([first, second])

    def behave(handler):
        next(turns)(handler)

    return behave


@pytest.mark.parametrize("path", PURE)
@pytest.mark.parametrize(("failure", "status"), [(cut, "502"), (busy, "503")])
def test_a_pure_request_goes_to_the_other_replica(path, failure, status, setup):
    behave = either(failure, well)
    pair = setup(behave, behave)

    answer = pair.ask("POST", path)

    assert answer.status == 200
    assert len(pair.first.requests) == len(pair.second.requests) == 1
    assert pair.logged()["upstream_status"] == f"{status}, 200"


@pytest.mark.parametrize("path", PURE)
def test_a_refusal_by_both_replicas_reaches_the_client(path, setup):
    answer = setup(busy, busy).ask("POST", path)

    assert (answer.status, answer.body, answer.headers["retry-after"]) == (503, b"busy", "7")


@pytest.mark.parametrize("path", ["/jobs", "/models/photo/rollback", "/models/photo/activate"])
def test_other_posts_are_never_sent_twice(path, setup):
    behave = either(cut, well)
    pair = setup(behave, behave)

    answer = pair.ask("POST", path)

    # Not 503: a client would send it again. It may have been carried out.
    assert "Look before you send" in problem(answer, 502)
    assert answer.headers["retry-after"] is None
    assert len(pair.requests) == 1


def test_a_refused_job_is_left_to_the_client(setup):
    behave = either(busy, well)
    pair = setup(behave, behave)

    answer = pair.ask("POST", "/jobs")

    assert (answer.status, answer.headers["retry-after"]) == (503, "7")
    assert len(pair.requests) == 1


@pytest.mark.parametrize("failure", [cut, busy])
def test_a_job_with_an_idempotency_key_is_sent_twice(failure, setup):
    behave = either(failure, well)
    pair = setup(behave, behave)

    assert pair.ask("POST", "/jobs", KEY).status == 200
    assert [headers["idempotency-key"] for _, _, headers in pair.requests] == ["one", "one"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/jobs/abc"), ("GET", "/models"), ("DELETE", "/jobs/abc")])
def test_requests_that_http_calls_idempotent_are_repeated(method, path, setup):
    behave = either(cut, well)

    assert setup(behave, behave).ask(method, path).status == 200


def test_a_repeated_request_keeps_its_id_and_its_client(setup):
    behave = either(cut, well)
    pair = setup(behave, behave)

    pair.ask("POST", "/denoise", {"X-Request-ID": "mine", "X-Forwarded-For": "192.0.2.9"})

    for _, _, headers in pair.requests:
        assert headers["x-request-id"] == "mine"
        assert headers["x-forwarded-for"] == "192.0.2.9, 127.0.0.1"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["host"] == f"127.0.0.1:{pair.nginx.port}"
    assert pair.logged()["request_id"] == "mine"


def test_a_request_without_an_id_gets_one(setup):
    pair = setup(well, well)

    pair.ask("POST", "/denoise")

    [(_, _, headers)] = pair.requests
    assert headers["x-request-id"] == pair.logged()["request_id"]
    assert len(headers["x-request-id"]) == 32


def test_the_ids_of_jobs_and_views_are_not_logged(setup):
    pair = setup(well, well)

    for path in ("/jobs/secret", "/jobs/secret/events", "/preview?view=secret", "/secret"):
        pair.ask("GET", path)
    while len(pair.nginx.log) < 4:
        time.sleep(0.02)

    assert [line["route"] for line in pair.nginx.log] == ["/jobs/-", "/jobs/-/events", "/preview", "other"]
    assert "secret" not in (pair.nginx.folder / "denoise.log").read_text()


def test_a_view_is_asked_for_where_its_preview_was_made(setup):
    pair = setup(well, well)

    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        paths = ("/preview", "/preview?view=x", "/estimate?view=x")
        assert len({pair.ask("POST", path, {"X-Forwarded-For": client}).body for path in paths}) == 1


def events(handler):
    """An answer that goes on until the test has read its first event."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"9\r\ndata: 1\n\n\r\n")
    handler.server.ended.wait()
    handler.close_connection = True


@pytest.mark.parametrize(("method", "path"), [("GET", "/jobs/abc/events"), ("POST", "/denoise/batch")])
def test_events_and_batches_arrive_while_they_are_made(method, path, setup):
    pair = setup(events, events)
    connection = http.client.HTTPConnection("127.0.0.1", pair.nginx.port, timeout=10)

    connection.request(method, path)
    first = connection.getresponse().read1()

    connection.close()
    assert first == b"data: 1\n\n"


def problem(answer, status):
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = json.loads(answer.body)
    assert document["status"] == status
    return document["detail"]


def test_an_upload_over_the_limit_is_refused_as_a_problem(setup):
    pair = setup(well, well)

    answer = pair.ask("POST", "/denoise", body=bytes(64 * 2**20 + 1))

    assert "client_max_body_size" in problem(answer, 413)
    assert pair.requests == []
    assert pair.ask("POST", "/denoise", body=bytes(64 * 2**20)).status == 200
    assert pair.ask("POST", "/jobs", body=bytes(64 * 2**20 + 1)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers"), [("POST", "/denoise", {}), ("POST", "/jobs", KEY), ("GET", "/jobs", {})]
)
def test_without_any_replica_the_client_is_told_to_wait(method, path, headers, tmp_path):
    with proxied(tmp_path / "nginx", [free_port(), free_port()]) as nginx:
        answer = Setup(nginx, None, None).ask(method, path, headers)

    assert "No replica" in problem(answer, 503)
    assert answer.headers["retry-after"] == "5"


@contextmanager
def timing():
    taken = []
    begun = time.monotonic()
    yield taken
    taken.append(time.monotonic() - begun)


def test_a_replica_that_cannot_be_reached_costs_two_seconds(tmp_path):
    with (
        unreachable_port() as gone,
        stub(well) as other,
        proxied(tmp_path / "nginx", [gone, other.port]) as nginx,
        timing() as taken,
    ):
        statuses = {Setup(nginx, None, other).ask("POST", "/denoise").status for _ in range(2)}

    assert statuses == {200}
    assert taken[0] < 2 * 2 + 1


# The shipped times are minutes. Here they are seconds. tests/project/test_deploy.py checks the shipped ones.
QUICK = (("proxy_read_timeout 310s;", "proxy_read_timeout 2s;"), ("_timeout 300s;", "_timeout 1s;"))


def test_a_replica_that_falls_silent_holds_a_client_no_longer_than_stated(setup):
    pair = setup(silent, silent, *QUICK)

    with timing() as taken:
        answer = pair.ask("POST", "/denoise")

    assert "did not answer in time" in problem(answer, 504)
    assert taken[0] < 2 + 1
    # It is not repeated: the time for that is over.
    assert len(pair.requests) == 1


def test_metrics_are_not_served_by_the_proxy(setup):
    pair = setup(well, well)

    assert pair.ask("GET", "/metrics").status == 404
    assert pair.requests == []
