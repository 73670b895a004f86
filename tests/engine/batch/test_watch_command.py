"""`denoise run --watch` as a process."""

import queue
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager

from engine.batch.journal import Journal

# Ends the process at a file that ends with these bytes, as the system does when memory is short.
FATAL = b"fatal"
KILL = f"""
import os, signal
from engine.batch import tasks
real = tasks.denoise_bytes

def denoise_bytes(select, data, *others):
    if data.endswith({FATAL!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(select, data, *others)

tasks.denoise_bytes = denoise_bytes
"""


@contextmanager
def command(*args, code=""):
    """Start the command. Gives its process, and a function that waits for a line of its stderr.

    code: what the process does first.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nfrom service.cli import main\nmain()", "run", *map(str, args)],
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line.rstrip("\n")) for line in process.stderr])
    reader.start()
    try:
        yield process, lambda: lines.get(timeout=120)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def test_the_command_survives_a_kill_and_ends_cleanly(drop, scans, clean, model):
    given = ["--watch", scans, "-o", clean, "--model", model]
    whole = drop("a.png").read_bytes()
    # The state after a kill in the middle of an image.
    with closing(Journal(clean, {})) as journal:
        journal.begin(scans / "a.png", clean / "a.png")
    (clean / ".a.png.01234567.part").touch()

    with command(*given) as (process, line):
        first = [line(), line()]
        with (scans / "slow.png").open("wb") as slow:
            slow.write(whole[:50])
            slow.flush()
            drop("b.png")
            first.append(line())
            slow.write(whole[50:])
        first.append(line())
        process.kill()
    drop("c.png")
    with command(*given) as (process, line):
        then = [line(), line()]
        process.send_signal(signal.SIGTERM)
        then.append(line())
        code = process.wait(60)

    # One colour needs no denoising.
    kept = "unchanged: a drawing in few colours is certainly clean"
    assert first == [
        f"watching {scans}. Press Ctrl-C to stop.",
        *(f"{scans / name}: {clean / name}; {kept}" for name in ("a.png", "b.png", "slow.png")),
    ]
    assert then == [
        f"watching {scans}. Press Ctrl-C to stop.",
        f"{scans / 'c.png'}: {clean / 'c.png'}; {kept}",
        "stopped: 1 denoised, 0 failed",
    ]
    assert code == 0
    assert sorted(file.name for file in clean.glob("[!.]*")) == ["a.png", "b.png", "c.png", "slow.png"]
    assert not list(clean.glob(".*.part"))


def test_the_command_gives_up_a_file_that_kills_it_twice(drop, scans, clean, model):
    fatal = drop("a.png")
    fatal.write_bytes(fatal.read_bytes() + FATAL)
    given, codes = ["--watch", scans, "-o", clean, "--model", model], []
    for _ in range(2):
        with command(*given, code=KILL) as (process, _):
            codes.append(process.wait(120))
    drop("b.png")

    with command(*given, code=KILL) as (process, line):
        lines = [line(), line(), line()]
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait(60))

    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert lines[1].startswith(f"{scans / 'b.png'}: {clean / 'b.png'}")
    assert lines[2].startswith(
        f"{scans / 'a.png'}: given up until it changes: two attempts ended with the process"
    )
