import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from engine.system.runtime import in_own_thread, use_cores

# Runs in a process without other tests' helpers. A thread's helpers end soon after it.
COUNTS = """
import os, time
import torch
from engine.layers import multiply
from engine.system.runtime import in_own_thread
from service.registry.registry import ModelRegistry
from service.settings import Settings

def threads():
    return len(os.listdir("/proc/self/task"))

def products():
    a = torch.ones(512, 512)
    return ((a @ a) @ a).sum()

torch.set_num_threads(2)
# The kernels' helper stays: it sleeps, and serves every thread.
in_own_thread(lambda: multiply(torch.ones(512, 512), torch.ones(512, 512)))
time.sleep(0.5)
before = threads()
{work}
until = time.monotonic() + {patience}
while threads() != before and time.monotonic() < until:
    time.sleep(0.01)
print(threads() - before)
"""


def helpers_left(work, patience=20):
    code = COUNTS.format(work=work, patience=patience)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def test_each_thread_keeps_its_own_number_of_cores():
    mine = torch.get_num_threads()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(use_cores, 1).result()
        other.submit(use_cores, 3).result()

        kept = [thread.submit(torch.get_num_threads).result() for thread in (one, other)]
    here = torch.get_num_threads()
    torch.set_num_threads(mine)

    assert kept == [1, 3]
    assert here == mine


def test_a_result_comes_back_and_its_thread_ends():
    threads = threading.active_count()

    assert in_own_thread(lambda: threading.current_thread() is not threading.main_thread())
    assert threading.active_count() == threads
    with pytest.raises(ValueError, match="from there"):
        in_own_thread(lambda: int("from there"))


def test_a_thread_of_its_own_leaves_no_helpers():
    assert helpers_left("products()", patience=0) == 1
    assert helpers_left("in_own_thread(products)") == 0


def test_loading_weights_leaves_no_helpers():
    assert helpers_left("ModelRegistry(Settings(threads=2))") == 0
