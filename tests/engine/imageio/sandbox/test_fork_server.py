"""Fork server: its processes end with it and with its parent, and are started again when something ends them."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.imageio.read import read
from engine.imageio.sandbox.decoder import Crashed, Decoder
from engine.imageio.sandbox.fork_server import ForkServer, server_command
from engine.imageio.sandbox.messages import encode_number, socket_pair
from engine.imageio.sandbox.shared_file import in_memory
from engine.system.runtime import NICE_INCREMENT
from tests.support.processes import children, watch
from tests.support.served import SOON
from tests.support.sick_codecs import SETUP, sick


def decode(decoder, data, **options):
    with in_memory(data) as file:
        return decoder.read(file, **options)


@pytest.fixture
def own():
    """A decoder with a fork server of its own."""
    with Decoder(fork_server=ForkServer(SETUP)) as own:
        yield own


def test_a_worker_is_started_and_killed():
    server = ForkServer()
    worker = server.start()

    assert children(server.pid) == [worker.pid]
    assert worker.is_idle()
    # Unless it is killed first, it ends by itself: its socket is closed.
    assert server.end(worker) in ("SIGKILL", "exit code 0")
    assert children(server.pid) == []
    server.close()


def test_a_server_that_something_else_ended_is_started_again(own, png):
    decode(own, png)
    with watch(own.fork_server.pid) as poll:
        os.kill(own.fork_server.pid, signal.SIGKILL)
        assert poll.poll(1000 * SOON)
    # Its worker lives on until a file ends it. Only then the server is missed.
    with pytest.raises(Crashed, match="its decoder process ended with an unknown cause"):
        decode(own, sick("crash"))

    assert (decode(own, png).pages[0].samples == read(png).pages[0].samples).all()


def test_many_files_leave_nothing_behind(png):
    def opened():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    def mapped():
        return Path("/proc/self/maps").read_text().count("memfd:decoder")

    before = (opened(), mapped())
    with Decoder(fork_server=ForkServer(SETUP)) as mine:
        decode(mine, png)
        during, server = opened(), mine.fork_server.pid
        (worker,) = children(server)
        for _ in range(50):
            decode(mine, png)
            with pytest.raises(ValueError, match="broken or cut short"):
                decode(mine, png[:-100])
        for what in ("crash", "leave"):
            with pytest.raises(Crashed):
                decode(mine, sick(what))
        decode(mine, png)
        assert (opened(), len(children(server))) == (during, 1)

    assert (opened(), mapped()) == before
    for process in (server, worker):
        assert not Path(f"/proc/{process}").exists()


ALONE = f"""
import sys
from engine.imageio.sandbox.decoder import Decoder
from engine.imageio.sandbox.shared_file import in_memory
from engine.imageio.sandbox.fork_server import ForkServer
mine = Decoder(fork_server=ForkServer({SETUP!r}))
with in_memory(sys.stdin.buffer.read(int(sys.argv[1]))) as file:
    mine.read(file)
print("decoded", flush=True)
with in_memory({sick("hang")!r}) as file:
    mine.read(file, check=lambda: print("hangs", flush=True))
"""


def test_no_process_outlives_the_parent_even_if_a_file_hangs(png):
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


def test_a_server_whose_parent_dies_ends_without_an_error():
    ours, theirs = socket_pair()
    with theirs:
        process = subprocess.Popen(
            server_command(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
    with ours:
        # A request to kill a worker that never was is answered at once. The answer stays unread.
        ours.send(encode_number(1))
        assert select.select([ours], [], [], SOON)[0]

    assert process.communicate(timeout=SOON)[1] == b""


def test_a_worker_has_low_priority_and_is_killed_first(own, png):
    decode(own, png)
    (worker,) = children(own.fork_server.pid)

    assert os.getpriority(os.PRIO_PROCESS, worker) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE_INCREMENT)
    assert Path(f"/proc/{worker}/oom_score_adj").read_text() == "1000\n"


def test_what_codecs_print_is_dropped_and_our_own_bugs_are_not(capfd):
    with Decoder(fork_server=ForkServer(SETUP)) as mine, pytest.raises(Crashed, match="exit code 1"):
        decode(mine, sick("talk"))

    printed = capfd.readouterr().err
    assert "AssertionError: a bug of ours" in printed
    assert "odd" not in printed
