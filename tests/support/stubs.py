"""Stand-ins for replicas: HTTP servers that answer, refuse, break off or stay silent, as a test says."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub(ThreadingHTTPServer):
    """behave: what it does with each request. requests: those it has received, as (method, path, headers)."""

    daemon_threads = True

    def __init__(self, behave, address=("127.0.0.1", 0)):
        super().__init__(address, Handler)
        self.behave, self.requests, self.ended = behave, [], threading.Event()

    @property
    def port(self):
        return self.server_address[1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.requests.append((self.command, self.path, self.headers))
        self.server.behave(self)

    do_GET = do_POST = do_DELETE = handle_one  # noqa: N815

    def log_message(self, *words):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def well(handler):
    handler.answer(200, str(handler.server.port).encode())


def busy(handler):
    handler.answer(503, b"busy", Retry_After="7")


def cut(handler):
    """Ends the connection without an answer, as the kernel does when the process is killed."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def silent(handler):
    """Never answers, as a machine whose cable was pulled."""
    handler.close_connection = True
    handler.server.ended.wait()


@contextmanager
def stub(behave):
    with Stub(behave) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


@contextmanager
def unreachable_port():
    """A port at which a connection is never established: its queue is full, so the system drops what arrives."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        try:
            yield server.getsockname()[1]
        finally:
            for each in waiting:
                each.close()
