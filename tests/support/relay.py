"""A relay between a client and a server, whose network a test can cut silently."""

import selectors
import socket
import threading
from contextlib import contextmanager


class Relay:
    """Passes bytes on, both ways, between the clients of `port` and a server. connect: a new socket to it."""

    def __init__(self, connect):
        self._connect = connect
        self._flowing = threading.Event()
        self._flowing.set()
        self._over = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """From now on nothing arrives, and nobody is told."""
        self._flowing.clear()

    def mend(self):
        self._flowing.set()

    def _accept(self):
        while not self._over:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client):
        self._flowing.wait()
        server = self._connect()
        self._sockets.append(server)
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while not self._over:
                for key, _ in ready.select(0.1):
                    self._flowing.wait()
                    try:
                        data = key.fileobj.recv(2**16)
                        key.data.sendall(data)
                    except OSError:
                        data = b""
                    if not data:
                        client.close()
                        server.close()
                        return

    def close(self):
        self._over = True
        self._flowing.set()
        self._server.close()
        for each in self._sockets:
            each.close()


@contextmanager
def relaying(connect):
    relay = Relay(connect)
    try:
        yield relay
    finally:
        relay.close()


def to_unix(path):
    """Connects to a socket in the file system."""

    def connect():
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(path))
        return server

    return connect


def to_port(port):
    return lambda: socket.create_connection(("127.0.0.1", port))
