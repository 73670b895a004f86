"""A Ray cluster of two nodes on this machine, for tests, in a process of its own.

So Ray's warnings do not reach the tests, and all its processes end with that one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

# Prints its address and the processes of its nodes. Reads commands: "kill" and "add". Each answer is
# a line. The first node has a CPU of its own, the second can be killed.
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
own = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**own, "include_dashboard": False})
second = cluster.add_node(**own)
def pid(node):
    return node.all_processes["raylet"][0].process.pid
print(json.dumps([cluster.address, pid(cluster.head_node), pid(second)]), flush=True)
for line in sys.stdin:
    if line.strip() == "kill":
        cluster.remove_node(second, allow_graceful=False)
        print("0", flush=True)
    else:
        second = cluster.add_node(**own)
        print(pid(second), flush=True)
cluster.shutdown()
"""


class RayCluster:
    """address: for clients. first, second: the processes of the nodes; the second one can be killed."""

    def __init__(self, process):
        self._process = process
        self.address, self.first, self.second = json.loads(process.stdout.readline())

    def kill_second(self):
        """Kill the second node, and the workers on it."""
        self._ask("kill")

    def restore(self):
        """A second node, if it was killed."""
        if not Path(f"/proc/{self.second}").exists():
            self.second = self._ask("add")

    def _ask(self, command):
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def ray_cluster():
    """A cluster that ends with the block."""
    pytest.importorskip("ray", reason="needs the extra ray")
    if sys.platform != "linux":
        pytest.skip("looks for processes in /proc")
    own = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    command = [sys.executable, "-c", CLUSTER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, env=own, **pipes)
    try:
        yield RayCluster(process)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(60)


def workers_at_work(*nodes):
    """The processes that denoise now on these nodes. Other programs may use Ray on this machine too."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            is_worker = b"_RayWorker.denoise" in status.with_name("cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if is_worker and parent in nodes:
            found.append(int(status.parent.name))
    return found


def kill_worker(cluster):
    """Kill a process that denoises on a cluster, once there is one."""
    nodes = (cluster.first, cluster.second)
    [worker, *_] = waited_for(lambda: workers_at_work(*nodes))
    os.kill(worker, signal.SIGKILL)
    waited_for(lambda: worker not in workers_at_work(*nodes))


def waited_for(check, seconds=240):
    """What `check` returns, once that is true."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.02)
    return found
