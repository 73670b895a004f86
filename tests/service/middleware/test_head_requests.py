"""HEAD requests: the head of the answer to GET, wherever GET is answered."""

import json
import re

from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from service.app import create_app
from tests.support.problems import assert_problem
from tests.support.served import serving

# Values that differ from answer to answer.
VARYING = {"x-request-id", "date"}


def test_every_route_for_get_answers_head(client):
    paths = {route.path for route in iter_route_contexts(client.app.routes) if "GET" in (route.methods or ())}
    paths = {re.sub(r"\{\w+\}", "any", path) for path in paths} | {"/page/page.js"}

    for path in paths:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        if path != "/metrics":
            assert {k: v for k, v in head.headers.items() if k not in VARYING} == {
                k: v for k, v in got.headers.items() if k not in VARYING
            }


def test_head_is_refused_where_get_is(client):
    refused = client.head("/denoise")

    assert refused.status_code == 405
    assert refused.headers["allow"] == "POST"
    assert client.head("/nowhere").status_code == 404


def test_head_needs_a_key_like_get(settings):
    with TestClient(create_app(settings.model_copy(update={"keys": f"web:{'x' * 40}"}))) as client:
        assert client.head("/models").status_code == 401
        assert client.head("/models", headers={"x-api-key": "x" * 40}).status_code == 200


def test_a_wrong_method_is_answered_with_head_too(client):
    response = client.patch("/models")

    assert_problem(response, 405, "PATCH /models")
    assert response.headers["allow"] == "GET, HEAD"


def test_a_server_answers_head_and_continues(folder, tmp_path, noisy):
    with serving(folder, "--spool", tmp_path / "spool", held=True) as server:
        job = server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()
        # More than one request on a connection: no byte of a body may follow a head.
        with server.connect() as connection:
            statuses = []
            for path in ("/health", "/models", "/", f"{job}/events", f"{job}/result", "/health/live"):
                connection.sendall(f"HEAD {path} HTTP/1.1\r\nhost: here\r\n\r\n".encode())
                statuses.append(head_of(connection))
        server.go_on()
        while json.loads(server.ask(f"GET {job}")[2])["state"] != "done":
            pass
        with server.connect() as connection:
            connection.sendall(f"HEAD {job}/result HTTP/1.1\r\nhost: here\r\n\r\n".encode())
            found = head_of(connection)
        server.stop()
        server.wait_for("stopped")

    assert statuses == [200, 200, 200, 200, 409, 200]
    assert found == 200
    logged = [(line["method"], line["status"]) for line in server.log if line["event"] == "request"]
    assert ("HEAD", 409) in logged
    assert all(line.get("level") != "error" for line in server.log)


def head_of(connection):
    """Reads one head, byte by byte: what follows it stays. Returns the status."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, "the connection was closed"
        head += byte
    assert head.startswith(b"HTTP/1.1 "), head
    return int(head.split()[1])
