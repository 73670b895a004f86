"""The service in a process of its own, which a test talks to by plain sockets."""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

SOON = 60  # seconds; only a test that fails waits so long

START = "from service.cli import main; main()"
# An image says so before it goes to the network, and waits until a line arrives on stdin or its client leaves.
HELD = """
import asyncio, sys, threading
from service.runtime.scheduler import Cancelled, Ticket
real = Ticket.in_network
go_on = threading.Event()

async def held(ticket, piece):
    print("in work", flush=True)
    while not go_on.is_set():
        try:
            ticket.flow.check()
        except Cancelled:
            print("cancelled", flush=True)
            raise
        await asyncio.sleep(0.01)
    await real(ticket, piece)

Ticket.in_network = held
threading.Thread(target=lambda: (sys.stdin.readline(), go_on.set()), daemon=True).start()
"""


class Served:
    """A server that listens. lines: its log as it arrives. printed: its stdout. log: the lines read so far."""

    def __init__(self, process):
        self.process = process
        self.lines, self.printed, self.log = queue.Queue(), queue.Queue(), []
        for stream, into in ((process.stderr, self.lines), (process.stdout, self.printed)):
            threading.Thread(target=lambda stream=stream, into=into: list(map(into.put, stream))).start()
        self.port = int(re.search(r":(\d+)$", self.wait_for("listening")["url"])[1])

    def wait_for(self, event):
        """The next log line of that event."""
        while True:
            self.log.append(json.loads(self.lines.get(timeout=SOON)))
            if self.log[-1]["event"].strip() == event:
                return self.log[-1]

    def wait_for_work(self, what="in work"):
        assert self.printed.get(timeout=SOON).strip() == what

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def connect(self, buffer=None):
        """buffer: how much the client's side receives ahead of reading, in bytes."""
        connection = socket.socket()
        connection.settimeout(SOON)
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def ask(self, head, body=b""):
        """(status, headers, body) of one request on a connection of its own."""
        with self.connect() as connection:
            connection.sendall(request(head, body))
            return answer(connection)

    def stop(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)

    def ended(self):
        """Its exit code."""
        return self.process.wait(SOON)


def request(head, body=b""):
    length = f"content-length: {len(body)}\r\n" if body else ""
    return f"{head} HTTP/1.1\r\nhost: here\r\n{length}\r\n".encode() + body


def answer(connection):
    """Reads one answer: (status, headers, body). EOFError if the connection ends before it."""
    with connection.makefile("rb") as file:
        if not (first := file.readline()):
            raise EOFError("no answer")
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = file.read(int(headers.get("content-length", 0)))
        if len(body) < int(headers.get("content-length", 0)):
            raise EOFError("half an answer")
        return int(first.split()[1]), headers, body


@contextmanager
def serving(folder, *flags, held=False, code="", env=None):
    """held: as HELD. code: what the process does first. env: more variables."""
    command = [sys.executable, "-c", (HELD if held else code) + START, "serve", "--port", "0", *map(str, flags)]
    settings = {
        "DENOISE_WEIGHTS": str(folder), "DENOISE_MODEL": "photo", "DENOISE_PRECISION": "float32",
        "DENOISE_THREADS": "1", "DENOISE_DEVICE": "cpu",
    }  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **settings, **(env or {})}
    ) as process:
        try:
            yield Served(process)
        finally:
            process.kill()
