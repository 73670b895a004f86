"""The service and its decoder processes: whatever a file does to them, the service goes on."""

import asyncio
import signal
import threading
from contextlib import ExitStack

import pytest
from fastapi.testclient import TestClient

from engine.imageio.sandbox import decoder
from engine.imageio.sandbox.fork_server import ForkServer
from service.app import create_app
from service.settings import Settings
from tests.support.leaving import post_and_leave
from tests.support.processes import children, watch
from tests.support.served import SOON, serving
from tests.support.sick_codecs import SETUP, sick


@pytest.fixture(scope="module")
def png(samples, file_of):
    return file_of(samples(20, 30))


@pytest.fixture(scope="module")
def sick_fork_server():
    server = ForkServer(SETUP)
    yield server
    server.close()


@pytest.fixture
def weak_settings(sick_fork_server, tmp_path, save_tiny, monkeypatch):
    monkeypatch.setattr(sick_fork_server, "close", lambda: None)
    monkeypatch.setattr(decoder, "ForkServer", lambda: sick_fork_server)
    save_tiny(tmp_path / "photo.safetensors")
    known = {"weights": tmp_path, "model": "photo", "device": "cpu", "precision": "float32"}
    return Settings(**known, decode_seconds=2, decode_memory=2**28)


@pytest.fixture
def client(weak_settings):
    with TestClient(create_app(weak_settings)) as client:
        yield client


@pytest.mark.parametrize("path", ["/denoise", "/estimate"])
@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("hang", 422, "Decoding the PNG file takes more than 2 seconds"),
        ("early hang", 422, "Decoding the PNG file takes more than 2 seconds"),
        ("crash", 400, "The PNG file is broken: its decoder process ended with SIGSEGV"),
        ("early crash", 400, "The PNG file is broken: its decoder process ended with SIGSEGV"),
        ("eat", 413, "takes more than 268435456 bytes of memory"),
    ],
)
def test_after_a_file_that_is_refused_the_service_goes_on(path, what, status, words, client, png, caplog):
    answer = client.post(path, content=sick(what))

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in answer.json()["detail"]
    assert any(words in str(record.msg) for record in caplog.records)
    assert client.post(path, content=png).status_code == 200
    scheduler = client.app_state["scheduler"]
    assert (scheduler.memory, scheduler.body_bytes, scheduler.in_work, scheduler.waiting) == (0, 0, 0, 0)


def test_the_service_answers_while_a_file_hangs(client):
    answers = []
    hanging = threading.Thread(target=lambda: answers.append(client.post("/denoise", content=sick("hang"))))
    hanging.start()
    while not (health := client.get("/health").json())["denoising"]:
        assert hanging.is_alive()
    hanging.join()

    assert health["ready"]
    assert answers[0].status_code == 422


def test_a_file_whose_client_has_left_is_given_up(weak_settings):
    patient = create_app(weak_settings.model_copy(update={"decode_seconds": 2 * SOON}))

    answers = asyncio.run(asyncio.wait_for(post_and_leave(patient, sick("hang")), SOON))

    # Nobody reads it: what counts is that there is one.
    assert answers[0]["status"] == 400


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_no_process_is_left_of_a_server_however_it_ends(sig, code, tmp_path, save_tiny, png):
    save_tiny(tmp_path / "photo.safetensors")
    with serving(tmp_path) as server, ExitStack() as stack:
        assert server.ask("POST /denoise", png)[0] == 200
        fork_server = children(server.process.pid)
        watched = [stack.enter_context(watch(pid)) for pid in (*fork_server, *children(*fork_server))]
        server.stop(sig)

        assert server.ended() == code
        assert len(watched) == 2
        assert all(poll.poll(1000 * SOON) for poll in watched)
