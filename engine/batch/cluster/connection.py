"""Connection to a Ray cluster, or a cluster on this machine for one batch."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.system.os_errors import reason

# Ray's shared memory on this machine, in bytes. Ray takes a third of the memory by default; here it only carries
# the weights. The least that Ray accepts is 75 MB.
OBJECT_STORE_BYTES = 200 * 2**20
# Seconds to reach a running cluster. Ray itself tries for minutes.
CONNECT_SECONDS = 10.0
# How long a node may take to answer, in seconds. Ray notices a dead node some 10 seconds later than its workers.
ANSWER_SECONDS = 5.0


class RayMissing(ValueError):
    """A batch for a cluster, without the package that runs it."""


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The package ray, connected to a cluster. None starts one on this machine, which ends with the block.

    Raises RayMissing, ValueError for a cluster with other versions, and ConnectionError.
    """
    # Otherwise Ray sends statistics to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers are told which device to use. This is what Ray will do by itself later.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise RayMissing("a batch on a cluster needs the package ray: pip install 'denoise[ray]'") from error
    if address:
        _require_reachable(address)
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address is None else {}
    try:
        ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **own)
    # Ray's words for another version of Python or Ray.
    except RuntimeError as error:
        raise ValueError(f"cannot use the Ray cluster at {address}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Raises ValueError for an address that is none, or at which nothing answers."""
    if "://" in address:
        raise ValueError(f"{address}: give HOST:PORT, and run the command on a node of the cluster")
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        # auto, or local.
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(f"no Ray cluster answers at {address}: {reason(error)}") from error


def answers(address: tuple[str, int]) -> bool:
    """Whether something listens at an address."""
    try:
        socket.create_connection(address, ANSWER_SECONDS).close()
    except OSError:
        return False
    return True
