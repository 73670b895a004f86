"""Decoding in processes apart: the same as in this one, and whatever a file does to them, the next is decoded."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.imageio.formats import FORMATS
from engine.imageio.image import Image, ImageSequence
from engine.imageio.metadata import Metadata
from engine.imageio.read import read, read_info
from engine.imageio.sandbox import decoder
from engine.imageio.sandbox.decoder import (
    Crashed,
    Decoder,
    ForkServer,
    TooLargeToDecode,
    TooSlowToDecode,
    _receive,
    _send,
    require_linux,
)
from engine.imageio.write import encode
from engine.system.runtime import NICE_INCREMENT
from service.app import create_app
from service.settings import Settings
from tests.support.leaving import post_and_leave
from tests.support.served import SOON, serving

# Codecs do to some files what no file is known to make them do.
SICK = """
import os, signal
from engine.imageio.sandbox import decoder
from engine.imageio.formats import FORMATS
from engine.imageio.image import ImageInfo
read_info, read = decoder.read_info, decoder.read

def sicken(what):
    match what:
        case b"hang": signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); signal.sigwait([])
        case b"crash": os.kill(os.getpid(), signal.SIGSEGV)
        case b"leave": os._exit(3)
        case b"eat": bytearray(2**30)
        case b"talk": os.write(2, b"odd"); raise AssertionError("a bug of ours")

def sick_read(data, **wishes):
    sicken(data[8:])
    return read(data, **wishes)

def sick_outline(data, **wishes):
    sicken(data[8:].removeprefix(b"early ") if data[8:14] == b"early " else b"")
    return ImageInfo(FORMATS["png"], 600, "8") if len(data) < 20 else read_info(data, **wishes)

decoder.read_info, decoder.read = sick_outline, sick_read
"""


def sick(what):
    """What the workers of a sick decoder take for a PNG file that does so to them; `early`: by its header."""
    return b"\x89PNG\r\n\x1a\n" + what.encode()


@pytest.fixture(scope="module")
def png(samples, file_of):
    return file_of(samples(20, 30))


@pytest.fixture(scope="module")
def sound():
    with Decoder() as sound:
        yield sound


class Sick(ForkServer):
    """Its workers are made sick by some files."""

    def _launch(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoder, "_NURSERY", decoder._NURSERY.replace("nurse(", f"exec({SICK!r}); nurse("))
            super()._launch()


@pytest.fixture(scope="module")
def nursery():
    nursery = Sick()
    yield nursery
    nursery.close()


@pytest.fixture
def sick_nursery(nursery, monkeypatch):
    """Decoders that are made have this one, and leave it open."""
    monkeypatch.setattr(nursery, "close", lambda: None)
    monkeypatch.setattr(decoder, "ForkServer", lambda: nursery)


@pytest.fixture
def own_nursery(monkeypatch):
    """Decoders that are made have each its own."""
    monkeypatch.setattr(decoder, "ForkServer", Sick)


@pytest.fixture
def weak(sick_nursery):
    with Decoder(memory=2**28) as weak:
        yield weak


def assert_same(file, other):
    """To the bit, metadata too."""
    assert replace(file, pages=()) == replace(other, pages=())
    assert len(file.pages) == len(other.pages)
    for page, twin in zip(file.pages, other.pages, strict=True):
        for ours, theirs in ((page.samples, twin.samples), (page.alpha, twin.alpha)):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
                assert torch.equal(ours, theirs)
        assert page.metadata == twin.metadata


modes = st.sampled_from(
    [
        (kind.name, depth, channels, alpha, pages)
        for kind in FORMATS.values()
        if kind.writes
        for depth in kind.writes.depths
        for channels in (1, 3)
        for alpha in ({False, kind.writes.alpha})
        for pages in ({1, 3} if kind.writes.pages and not (kind.name == "png" and depth == "16") else {1})
    ]
)
blocks = st.one_of(st.none(), st.binary(min_size=1, max_size=99))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(modes, st.integers(1, 40), st.integers(1, 40), blocks, st.sampled_from([None, (300.0, 299.5)]))
def test_a_file_is_the_same_as_if_it_were_read_in_this_process(sound, mode, height, width, block, resolution):
    name, depth, channels, alpha, pages = mode
    rng = np.random.default_rng(height * width)
    dtype = {"8": np.uint8, "16": np.uint16, "float": np.float32}[depth]
    drawn = rng.integers(0, 256, (pages, height, width, channels + alpha)).astype(dtype)
    known = Metadata(block, None, b"<x:xmpmeta/>" if block else None, resolution)
    file = ImageSequence(
        FORMATS[name],
        tuple(
            Image(
                torch.from_numpy(page[..., :channels].copy()),
                torch.from_numpy(page[..., -1].copy()) if alpha else None,
                known,
            )
            for page in drawn
        ),
        tuple(range(50, 50 + pages)) if pages > 1 else None,
        2,
    )
    data = encode(file, FORMATS[name]).data

    for wishes in ({}, {"max_pixels": 10**6, "max_pages": 5, "page": pages}):
        assert_same(sound.read(data, **wishes), read(data, **wishes))
        assert sound.read_info(data, **wishes) == read_info(data, **wishes)


@pytest.mark.parametrize(
    ("spoil", "wishes"),
    [
        (lambda png: b"", {}),
        (lambda png: b"%PDF-1.7", {}),
        (lambda png: png[:20], {}),
        (lambda png: png[:-200], {}),
        (lambda png: png, {"max_pixels": 599}),
        (lambda png: png, {"page": 2}),
    ],
)
def test_a_file_is_refused_in_the_same_words(sound, png, spoil, wishes):
    def answer(ask):
        try:
            return ask(spoil(png), **wishes)
        except ValueError as refused:
            return type(refused), str(refused)

    refused = answer(read)
    assert isinstance(refused, tuple)
    assert answer(sound.read) == refused
    assert answer(sound.read_info) == answer(read_info)
    assert_same(sound.read(png), read(png))


def test_what_was_decoded_may_be_written_to_and_outlives_the_decoder(own_nursery, png):
    with Decoder() as mine:
        file = mine.read(png)
    samples = file.pages[0].samples

    assert torch.equal(samples.add_(1), read(png).pages[0].samples + 1)


def children(pid):
    """Of a process whose first thread has made all of them."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processes(decoder):
    """Of a decoder: the nursery's own number and its workers'."""
    nursery = decoder._nursery._process.pid
    return nursery, children(nursery)


@contextmanager
def watch(pid):
    """To be polled for the end of a process."""
    poll = select.poll()
    with os.fdopen(os.pidfd_open(pid)) as process:
        poll.register(process)
        yield poll


def test_one_worker_does_what_is_asked_one_after_another(weak, png):
    for _ in range(3):
        weak.read(png)

    assert len(processes(weak)[1]) == 1


def test_a_file_that_takes_too_long_is_given_up_and_told_how_long_it_had(weak, png):
    weak.seconds = 1
    with pytest.raises(
        TooSlowToDecode, match=r"^The PNG file was not decoded within 1 seconds, which is what one may take\.$"
    ):
        weak.read(sick("hang"))

    weak.seconds = SOON
    assert processes(weak)[1] == []
    assert_same(weak.read(png), read(png))


@pytest.mark.parametrize(("what", "how"), [("crash", "SIGSEGV"), ("leave", "exit code 3")])
def test_a_file_that_ends_its_decoder_is_broken_and_the_next_is_decoded(what, how, weak, png):
    with pytest.raises(Crashed, match=rf"^The PNG file is broken: decoding it ended by {how}\.$"):
        weak.read(sick(what))

    assert_same(weak.read(png), read(png))


def test_a_file_that_eats_memory_is_given_up_and_told_how_much_it_had(weak, png):
    with pytest.raises(TooLargeToDecode, match="not decoded within 268435456 bytes of memory"):
        weak.read(sick("eat"))

    assert processes(weak)[1] == []
    assert_same(weak.read(png), read(png))


class GoneError(Exception):
    pass


def test_while_one_file_hangs_another_is_decoded_and_what_nobody_wants_is_given_up(sick_nursery, png):
    hangs, gone = threading.Event(), threading.Event()

    def check():
        hangs.set()
        if gone.is_set():
            raise GoneError

    with Decoder() as patient, ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(patient.read, sick("hang"), check=check)
        assert hangs.wait(SOON)
        assert_same(patient.read(png), read(png))
        assert not hanging.done()
        gone.set()

        with pytest.raises(GoneError):
            hanging.result(SOON)
        assert len(processes(patient)[1]) == 1


def test_a_worker_that_was_ended_by_something_else_is_not_the_next_file_s_fault(weak, png):
    weak.read(png)
    (worker,) = processes(weak)[1]
    with watch(worker) as poll:
        os.kill(worker, signal.SIGKILL)
        assert poll.poll(1000 * SOON)

    assert_same(weak.read(png), read(png))


def test_a_nursery_that_was_ended_by_something_else_is_made_anew(own_nursery, png):
    with Decoder() as mine:
        mine.read(png)
        with watch(mine._nursery._process.pid) as poll:
            mine._nursery._process.kill()
            assert poll.poll(1000 * SOON)
        # The worker still is there, until it is ended by what it has to decode; only then a nursery is missed.
        with pytest.raises(Crashed, match="decoding it ended by something unknown"):
            mine.read(sick("crash"))

        assert_same(mine.read(png), read(png))


def test_nothing_is_left_of_many_files(own_nursery, png):
    def opened():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    def mapped():
        return Path("/proc/self/maps").read_text().count("memfd:decoder")

    before = (opened(), mapped())
    with Decoder() as mine:
        mine.read(png)
        during, (nursery, (worker,)) = opened(), processes(mine)
        for _ in range(50):
            mine.read(png)
            with pytest.raises(ValueError, match="broken or cut short"):
                mine.read(png[:-100])
        for what in ("crash", "leave"):
            with pytest.raises(Crashed):
                mine.read(sick(what))
        mine.read(png)
        assert (opened(), len(processes(mine)[1])) == (during, 1)

    assert (opened(), mapped()) == before
    for process in (nursery, worker):
        assert not Path(f"/proc/{process}").exists()


ALONE = f"""
import sys
from engine.imageio.sandbox import decoder
decoder._NURSERY = decoder._NURSERY.replace("nurse(", "exec(" + repr({SICK!r}) + "); nurse(")
mine = decoder.Decoder()
mine.read(sys.stdin.buffer.read(int(sys.argv[1])))
print("decoded", flush=True)
mine.read({sick("hang")!r}, check=lambda: print("hangs", flush=True))
"""


def test_nothing_survives_the_process_that_decodes_even_if_a_file_hangs(png):
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", ALONE, str(len(png))], stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        process.stdin.write(png)
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(3)] == [b"decoded\n", b"hangs\n", b"hangs\n"]
        process.kill()

        # Its pipe ends when the last process that could write to it has.
        assert process.communicate(timeout=SOON)[1] == b""


def test_a_nursery_whose_parent_dies_with_an_answer_unread_ends_without_a_word():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-c", decoder._NURSERY, str(theirs.fileno()), *sys.path]
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], start_new_session=True, stderr=subprocess.PIPE
        )
    with ours:
        # A worker is to be ended that there never was: answered at once.
        ours.send(decoder._word(1))
        assert select.select([ours], [], [], SOON)[0]

    assert process.communicate(timeout=SOON)[1] == b""


def test_a_worker_gives_way_to_whoever_answers_and_is_the_first_to_go_if_memory_is_short(weak, png):
    weak.read(png)
    (worker,) = processes(weak)[1]

    assert os.getpriority(os.PRIO_PROCESS, worker) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE_INCREMENT)
    assert Path(f"/proc/{worker}/oom_score_adj").read_text() == "1000\n"


def test_what_codecs_say_is_not_heard_and_a_bug_of_ours_is(own_nursery, capfd):
    with Decoder() as mine, pytest.raises(Crashed, match="exit code 1"):
        mine.read(sick("talk"))

    told = capfd.readouterr().err
    assert "AssertionError: a bug of ours" in told
    assert "odd" not in told


def test_memory_that_a_worker_could_still_change_or_that_is_too_much_is_refused(png):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
        os.write(loose, b'{"lengths": []}')
        socket.send_fds(theirs, [bytes(8)], [loose])
        os.close(loose)
        with pytest.raises(ValueError, match="can still change"):
            _receive(ours)
        _send(theirs, {}, [bytes(1000)])
        with pytest.raises(ValueError, match="at most 1000 can"):
            _receive(ours, 1000)


def test_where_there_is_no_linux_it_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(OSError, match="in a way that only Linux has"):
        require_linux()


# In the service


@pytest.fixture
def weak_settings(sick_nursery, tmp_path, save_tiny):
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
        ("hang", 422, "The PNG file was not decoded within 2 seconds"),
        ("early hang", 422, "The PNG file was not decoded within 2 seconds"),
        ("crash", 400, "The PNG file is broken: decoding it ended by SIGSEGV"),
        ("early crash", 400, "The PNG file is broken: decoding it ended by SIGSEGV"),
        ("eat", 413, "not decoded within 268435456 bytes of memory"),
    ],
)
def test_a_file_that_is_too_much_is_refused_and_the_service_goes_on(
    path, what, status, words, client, png, caplog
):
    answer = client.post(path, content=sick(what))

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in answer.json()["detail"]
    assert any(words in str(record.msg) for record in caplog.records)
    assert client.post(path, content=png).status_code == 200


def test_the_service_answers_while_a_file_hangs(client):
    answers = []
    hanging = threading.Thread(target=lambda: answers.append(client.post("/denoise", content=sick("hang"))))
    hanging.start()
    while not (health := client.get("/health").json())["denoising"]:
        assert hanging.is_alive()
    hanging.join()

    assert health["ready"]
    assert answers[0].status_code == 422


def test_a_file_whose_sender_has_gone_away_is_not_decoded_to_the_end(weak_settings):
    patient = create_app(weak_settings.model_copy(update={"decode_seconds": 2 * SOON}))

    answers = asyncio.run(asyncio.wait_for(post_and_leave(patient, sick("hang")), SOON))

    # Nobody reads it: what counts is that there is one.
    assert answers[0]["status"] == 400


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_no_process_is_left_of_a_server_however_it_ends(sig, code, tmp_path, save_tiny, png):
    save_tiny(tmp_path / "photo.safetensors")
    with serving(tmp_path) as server, ExitStack() as stack:
        assert server.ask("POST /denoise", png)[0] == 200
        nursery = children(server.process.pid)
        watched = [stack.enter_context(watch(pid)) for pid in (*nursery, *children(*nursery))]
        server.stop(sig)

        assert server.ended() == code
        assert len(watched) == 2
        assert all(poll.poll(1000 * SOON) for poll in watched)
