"""A PostgreSQL server of the tests' own: run by an ordinary user, on a socket in a temporary folder."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

# Where Debian installs it. Elsewhere the programs are in PATH.
FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
# Users that may run the server if the tests run as root, whom PostgreSQL refuses.
USERS = ("postgres", "nobody")
SOON = 30  # seconds
# Nothing has to survive a power cut.
OPTIONS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=200",
    "shared_buffers=32MB",
)


def program(name):
    for folder in FOLDERS:
        if (folder / name).exists():
            return str(folder / name)
    return shutil.which(name)


class Postgres:
    """A server. user: who runs it, if not the user of the tests."""

    def __init__(self, folder, user):
        self.folder, self.user = folder, user
        self._process = None

    def run(self, *command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=SOON, **self._as_user())
        assert done.returncode == 0, done.stderr or done.stdout

    def _as_user(self):
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}

    def start(self):
        options = [word for option in OPTIONS for word in ("-c", option)]
        command = [program("postgres"), "-D", self.folder / "data", "-k", self.folder, "-h", "", *options]
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._as_user())
        assert self._is_ready(), (self.folder / "log").read_text()

    def _is_ready(self):
        for _ in range(SOON * 20):
            command = [program("pg_isready"), "-q", "-h", self.folder, "-t", "1"]
            if subprocess.run(command).returncode == 0:
                return True
            if self._process.poll() is not None:
                return False
            time.sleep(0.05)
        return False

    def stop(self, sig=signal.SIGINT):
        """SIGINT ends all connections at once."""
        self._process.send_signal(sig)
        self._process.wait(SOON)

    def freeze(self):
        """The server and its connections stop without a word, like a machine that hangs."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self):
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, sig):
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            os.kill(pid, sig)

    @property
    def socket(self):
        return self.folder / ".s.PGSQL.5432"

    def url_by_port(self, url, port):
        """The URL of the same database through a relay's port."""
        return f"{url.partition('?')[0].replace('@', '@127.0.0.1')}?port={port}"

    def new_database(self):
        """The URL of a new, empty database."""
        name = f"test_{secrets.token_hex(6)}"
        self.run(program("createdb"), "-h", self.folder, name)
        return self.url(name)

    def url(self, name):
        user = (self.user or pwd.getpwuid(os.getuid())).pw_name
        return f"postgresql://{user}@/{name}?host={self.folder}"


@contextmanager
def running_postgres():
    """A server, until the block ends. Skips the test where PostgreSQL is missing."""
    if not program("postgres") or not program("initdb"):
        pytest.skip("PostgreSQL is not installed")
    user = _ordinary_user() if os.geteuid() == 0 else None
    # Not pytest's folder, which other users cannot enter. Short, because a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = Postgres(folder, user)
    try:
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
        server.run(program("initdb"), "-D", folder / "data", "-A", "trust", "--no-sync", "-E", "UTF8")
        server.start()
        yield server
        server.stop()
    finally:
        if server._process and server._process.poll() is None:
            server.thaw()
            server._process.kill()
            server._process.wait()
        shutil.rmtree(folder)


def _ordinary_user():
    for name in USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return pytest.skip(f"PostgreSQL does not run as root, and there is no user {' or '.join(USERS)}")
