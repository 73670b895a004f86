"""Slow and hostile clients: each ends at its limit and leaves nothing behind."""

import json
import socket
import struct
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import children
from tests.support.served import SOON, answer, request, serving

CONNECTIONS = 4
MAX_BYTES = 3_000_000
WHOLE = 5_000_000  # bytes; the answer to `large` has more
POST = b"POST /denoise HTTP/1.1\r\nhost: here\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    seconds = ["--idle-seconds", 2, "--upload-seconds", 1, "--download-seconds", 1]
    with serving(folder, *seconds, "--max-connections", CONNECTIONS, "--max-bytes", MAX_BYTES) as server:
        yield server


@pytest.fixture
def counted(server):
    """counted(name, *labels): a value from /metrics."""

    def find(name, *labels):
        text = server.ask("GET /metrics")[2].decode()
        samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
        found = {(each.name, *each.labels.values()): each.value for each in samples}
        return found.get((name, *labels), 0)

    return find


@pytest.fixture(autouse=True)
def nothing_stays(server, counted, file_of):
    """After each test as many files are open as before, and no image is in work."""
    small = file_of(Image.new("L", (2, 2)))

    def settled():
        """Open files, less those of decoder processes: uploads that overlap may have started a second one."""
        assert server.ask("POST /denoise", small)[0] == 200
        (fork_server,) = children(server.process.pid)
        return counted("process_open_fds") - len(children(fork_server))

    before = settled()
    yield
    end = time.monotonic() + SOON
    while counted("denoise_queue_images", "working") or settled() > before:
        assert time.monotonic() < end, "something stays open"
        time.sleep(0.05)


def dribble(connection, byte=b"x"):
    """Send a byte now and then until the server answers or closes the connection."""
    connection.settimeout(0.05)
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        try:
            connection.sendall(byte)
            if connection.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    else:
        raise AssertionError("it never ended")
    connection.settimeout(SOON)


def is_closed(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def bytes_left(connection):
    """Number of bytes until the connection ends."""
    count = 0
    try:
        while piece := connection.recv(2**20):
            count += len(piece)
    except ConnectionError:
        pass
    return count


def assert_refused(connection, status, *words):
    came, headers, body = answer(connection)
    problem = json.loads(body)
    assert (came, problem["status"], headers["connection"]) == (status, status, "close")
    assert headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in problem["detail"]
    assert is_closed(connection)


def test_an_idle_connection_is_kept_for_a_while(server):
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(request("GET /health/live"))
            assert answer(connection)[0] == 200

        assert is_closed(connection)


def test_a_silent_connection_is_closed(server):
    with server.connect() as connection:
        assert is_closed(connection)


def test_a_slow_head_is_answered_408(server):
    with server.connect() as connection:
        connection.sendall(POST + b"x-slow: ")

        dribble(connection)

        assert_refused(connection, 408, "head", "2 seconds")


def test_a_slow_body_is_answered_408(server):
    with server.connect() as connection:
        connection.sendall(POST + b"content-length: 1000000\r\n\r\n")

        dribble(connection)

        assert_refused(connection, 408, "body", "1 seconds")


@pytest.mark.parametrize("count", [1, 20], ids=["in one piece", "in many"])
def test_a_flood_of_headers_is_answered_431(count, server):
    with server.connect() as connection:
        flood = b"".join(b"x-%d: %s\r\n" % (n, b"y" * (200_000 // count)) for n in range(count))

        connection.sendall(POST + flood + b"\r\n")

        assert_refused(connection, 431, "16384 bytes")


def test_invalid_http_is_answered_400(server):
    with server.connect() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")

        assert_refused(connection, 400, "Invalid HTTP request")


@pytest.mark.parametrize(("path", "status"), [("/denoise", 413), ("/nowhere", 404)])
def test_an_endless_body_is_answered_and_ends(path, status, server):
    with server.connect() as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        sent = 0
        while sent <= MAX_BYTES:
            connection.sendall(chunk)
            sent += 0x10000

        assert answer(connection)[0] == status
        dribble(connection, chunk)
        assert is_closed(connection)


@pytest.fixture(scope="module")
def large(file_of):
    """A request whose answer is larger than all buffers between server and client."""
    noise = Image.effect_noise((3000, 2000), 90)
    body = file_of(noise, "JPEG", quality=30)
    return request("POST /denoise?strength=0&format=tiff", body)


@pytest.mark.parametrize("reads", [0, 100], ids=["not at all", "in dribbles"])
def test_a_client_that_does_not_read_is_disconnected(reads, server, large, counted):
    before = counted("denoise_errors_total", "ReaderTooSlow")
    with server.connect(buffer=4096) as connection:
        connection.sendall(large)

        end = time.monotonic() + SOON
        while counted("denoise_errors_total", "ReaderTooSlow") == before:
            assert time.monotonic() < end, "it never ended"
            time.sleep(0.05)
            connection.recv(reads)

        assert bytes_left(connection) < WHOLE


def test_a_slow_but_steady_reader_gets_the_whole_answer(server, large):
    with server.connect(buffer=65536) as connection:
        connection.sendall(large)

        status, _, body = answer(connection)

    assert status == 200
    assert len(body) > WHOLE


@contextmanager
def held(server, count):
    """Silent connections. On return the server has noticed that they are closed."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(server.connect())
        yield
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        with suppress(EOFError, ConnectionError):
            if server.ask("GET /models")[0] == 200:
                break


def test_connections_beyond_the_limit_get_503_except_health(server):
    with held(server, CONNECTIONS):
        refused = server.ask("GET /models")
        health = server.ask("GET /health/ready")

    assert (refused[0], refused[1]["retry-after"], health[0]) == (503, "1", 200)
    assert "connections" in json.loads(refused[2])["detail"]
    assert server.ask("GET /models")[0] == 200


def test_a_flood_of_connections_is_closed(server):
    with held(server, 2 * CONNECTIONS), server.connect() as last:
        assert is_closed(last)

    assert server.ask("GET /models")[0] == 200


@pytest.mark.parametrize("stage", ["nothing", "half a head", "half a body", "all"])
@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
def test_a_client_may_disconnect_at_any_time(stage, reset, server, large):
    head = large.index(b"\r\n\r\n")
    sent = {"nothing": 0, "half a head": head // 2, "half a body": len(large) // 2, "all": len(large)}[stage]
    with server.connect() as connection:
        connection.sendall(large[:sent])
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert server.ask("GET /health/live")[0] == 200


def test_a_client_may_disconnect_during_its_answer(server, large):
    with server.connect(buffer=4096) as connection:
        connection.sendall(large)
        assert connection.recv(12) == b"HTTP/1.1 200"

    assert server.ask("GET /health/live")[0] == 200


def test_no_client_caused_an_error_in_the_log(server):
    """Must be the last test of this file, because it reads the log of the others."""
    server.ask("GET /nowhere")
    while server.wait_for("request")["route"] != "none":
        pass

    assert not [line for line in server.log if line["level"] == "error"]
