"""nginx with the configuration that service/deploy ships, as an ordinary process in a folder of a test."""

import getpass
import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "service" / "deploy"
# Debian's package puts it where only root looks.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
MISSING = "nginx is not installed (Debian: apt-get install nginx)"
SOON = 30  # seconds; only a test that fails waits so long

# Also for `nginx -t`: as root it gives these folders to its user. It would take Debian's from an nginx that runs.
TEMPORARY = """
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/answers;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
"""
# What Debian's /etc/nginx/nginx.conf does around a site, with paths that the test may write to.
MAIN = """
daemon off;
user {user};
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 768; }}
http {{
    {temporary}
    include {folder}/replicas.conf;
    include {folder}/denoise.conf;
}}
"""


class Nginx:
    """A proxy in front of replicas. port: where it listens. process: its master process."""

    def __init__(self, folder, port, process):
        self.folder, self.port, self.process = folder, port, process

    @property
    def log(self):
        """The requests that it has answered."""
        return [json.loads(line) for line in (self.folder / "denoise.log").read_text().splitlines()]

    @property
    def errors(self):
        return (self.folder / "error.log").read_text()


def replaced(text, *changes):
    """The text with each change made: (before, after). Each must be found."""
    for before, after in changes:
        assert before in text, f"{before!r} is not in the file"
        text = text.replace(before, after)
    return text


def configure(folder, replicas, port, *changes):
    """Write the configuration. replicas: two ports, or two addresses with ports.

    changes: in nginx.conf, such as times that are too long.
    """
    folder.mkdir()
    main = MAIN.format(folder=folder, user=getpass.getuser(), temporary=TEMPORARY.format(folder=folder))
    site = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("/var/log/nginx/access.log", f"{folder}/denoise.log"),
        *changes,
    )
    first, second = (f"127.0.0.1:{each}" if isinstance(each, int) else each for each in replicas)
    servers = (DEPLOY / "replicas.conf").read_text()
    servers = replaced(servers, ("127.0.0.1:8001 ", f"{first} "), ("127.0.0.1:8002 ", f"{second} "))
    (folder / "nginx.conf").write_text(main)
    (folder / "denoise.conf").write_text(site)
    (folder / "replicas.conf").write_text(servers)
    return folder / "nginx.conf"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def proxied(folder, replicas, *changes):
    """nginx in front of two ports, until the block ends."""
    port = free_port()
    command = [NGINX, "-p", folder, "-e", folder / "error.log", "-c", configure(folder, replicas, port, *changes)]
    with subprocess.Popen(command) as process:
        try:
            _wait_until_it_listens(process, port, folder)
            yield Nginx(folder, port, process)
        finally:
            process.terminate()


def _wait_until_it_listens(process, port, folder):
    end = time.monotonic() + SOON
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise RuntimeError(f"nginx did not start:\n{(folder / 'error.log').read_text()}")
