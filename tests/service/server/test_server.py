"""The server as a process: start, shutdown and log."""

import json
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.imageio.read import decode
from engine.layers import kernels
from service.server.server import ABORT_SECONDS
from service.settings import Settings
from tests.support.served import SOON, START, answer, request, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors")
    return folder


@pytest.fixture(scope="module")
def noisy(samples, file_of):
    return file_of(samples(21, 34))


def start(folder, *flags, env=None):
    """Run `denoise serve` to its end. Returns its exit code and stderr."""
    command = [sys.executable, "-c", START, "serve", "--weights", str(folder), "--model", "photo", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SOON, env=env)
    return ended.returncode, ended.stderr


def test_sigterm_finishes_images_in_work_and_refuses_new(folder, noisy):
    with serving(folder, held=True) as server, ThreadPoolExecutor(1) as pool:
        image = pool.submit(server.ask, "POST /denoise", noisy)
        server.wait_for_work()
        assert server.ask("GET /health/ready")[0] == 200

        server.stop()
        server.wait_for("stopping")
        ready, live, refused = (
            server.ask(head) for head in ("GET /health/ready", "GET /health/live", "POST /denoise")
        )
        server.go_on()
        status, headers, body = image.result(SOON)

        assert server.ended() == 0
    assert (ready[0], live[0], refused[0]) == (503, 200, 503)
    assert refused[1]["retry-after"] == "5"
    assert "stopping" in json.loads(refused[2])["detail"]
    assert (status, headers["x-denoise-model"]) == (200, "photo")
    assert decode(body).pixels.shape == (21, 34, 3)


def test_a_draining_service_is_not_ready_but_answers(folder, noisy):
    with serving(folder, "--drain-seconds", "4") as server:
        before = server.ask("POST /denoise", noisy)
        server.stop()
        drain = server.wait_for("draining")
        ready, health, metrics, answered = (
            server.ask(head, body)
            for head, body in [
                ("GET /health/ready", b""), ("GET /health", b""), ("GET /metrics", b""), ("POST /denoise", noisy)
            ]
        )  # fmt: skip
        server.wait_for("stopping")

        assert server.ended() == 0
    assert drain["drain_seconds"] == 4
    assert ready[0] == 503
    assert json.loads(health[2])["ready"] is False
    assert b"denoise_ready 0.0" in metrics[2]
    assert (answered[0], answered[2]) == (200, before[2])
    # So a load balancer that keeps connections open turns to another replica.
    assert (before[1].get("connection"), answered[1]["connection"]) == (None, "close")


def test_a_second_signal_ends_a_draining_process(folder):
    with serving(folder, "--drain-seconds", "60") as server:
        server.stop()
        server.wait_for("draining")
        server.stop()

        assert server.ended() == -signal.SIGTERM


def test_idle_connections_do_not_delay_the_shutdown(folder):
    with serving(folder) as server, server.connect() as silent, server.connect() as idle:
        idle.sendall(request("GET /health/live"))
        assert answer(idle)[0] == 200

        server.stop()

        assert server.ended() == 0
        assert silent.recv(1) == idle.recv(1) == b""


def test_requests_past_the_grace_time_are_aborted(folder, noisy):
    with serving(folder, "--grace-seconds", "0.1", held=True) as server, server.connect() as connection:
        connection.sendall(request("POST /denoise", noisy))
        server.wait_for_work()

        server.stop()

        assert server.wait_for("requests aborted")["working"] == 1
        server.wait_for_work("cancelled")
        assert server.ended() == 0
        with pytest.raises((EOFError, ConnectionResetError)):
            answer(connection)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(sig, folder, noisy):
    with serving(folder, held=True) as server, server.connect() as connection:
        connection.sendall(request("POST /denoise", noisy))
        server.wait_for_work()

        server.stop(sig)
        server.wait_for("stopping")
        server.stop(sig)

        assert server.ended() == -sig


BROKEN = """
from service.runtime.scheduler import Ticket

async def broken(ticket, window):
    raise RuntimeError("a bug")

Ticket.in_network = broken
"""


def test_a_bug_is_logged_with_traceback_and_request_id(folder, noisy):
    with serving(folder, code=BROKEN) as server:
        status, headers, body = server.ask("POST /denoise", noisy)
        line = server.wait_for("Exception in ASGI application")

    assert status == 500
    assert line["level"] == "error"
    assert line["exception"].endswith("RuntimeError: a bug")
    assert line["request_id"] == headers["x-request-id"]
    assert headers["x-request-id"] in json.loads(body)["detail"]


def test_the_first_log_line_names_the_kernels(folder):
    with serving(folder) as server:
        first = server.log[0]

    assert (first["event"], first["kernels"]) == ("starting", kernels.name())


WITHOUT_KERNELS = """
import os
from pathlib import Path
from engine.layers import kernels

os.environ.pop(kernels.SETTING, None)
kernels.LIBRARIES = Path(os.devnull)
"""


def test_a_server_without_kernels_logs_a_warning(folder):
    with serving(folder, code=WITHOUT_KERNELS) as server:
        first, second = server.log[:2]

    assert first["kernels"] == "plain"
    assert second["level"] == "warning"
    assert "no compiled kernels" in second["event"]


def test_a_port_in_use_fails_in_one_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, error = start(folder, "--port", str(port))

    assert code == 1
    assert error.startswith(f"error: cannot listen on 127.0.0.1, port {port}: Address already in use; ")
    assert error.endswith("with --port\n")


def test_an_invalid_host_fails_in_one_line(folder):
    code, error = start(folder, "--host", "256.0.0.1")

    assert code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_invalid_settings_fail_in_one_line(folder, monkeypatch):
    monkeypatch.setenv("DENOISE_MAX_PIXELS", "many")
    monkeypatch.setenv("DENOISE_GRACE_SECONDS", "-1")

    code, error = start(folder)

    assert code == 1
    assert error.startswith("error: DENOISE_MAX_PIXELS or --max-pixels is 'many': ")
    assert "; DENOISE_GRACE_SECONDS or --grace-seconds is '-1': " in error
    assert error.count("\n") == 1


def test_the_readmes_stop_timeouts_exceed_the_grace_time():
    readme = (Path(__file__).parents[3] / "service" / "README.md").read_text()
    longest = Settings.model_fields["grace_seconds"].default + ABORT_SECONDS

    waits = re.findall(r"(?:TimeoutStopSec=|--stop-timeout )(\d+)", readme)

    assert len(waits) == 2
    assert all(int(wait) > longest for wait in waits)
