"""Meeting of workers, in a store that still holds the keys of workers that have ended."""

import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from engine.training.meeting import meet


@pytest.fixture
def address():
    """Where workers meet: the one store of all their starts, as torchrun keeps it."""
    with pytest.MonkeyPatch.context() as patch:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        patch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        yield f"tcp://127.0.0.1:{store.port}"


def start(address, count, timeout=20.0):
    """The stores of workers that are started together."""
    stores = {}
    threads = [
        threading.Thread(target=lambda rank=rank: stores.update({rank: meet(address, rank, count, timeout)}))
        for rank in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return stores


def test_workers_share_keys_that_earlier_workers_did_not_have(address):
    first = start(address, 3)
    first[0].set("address", "of a worker that has ended")

    second = start(address, 3)
    second[2].set("address", "new")

    assert [store.get("address") for store in second.values()] == [b"new"] * 3
    assert first[1].get("address") == b"of a worker that has ended"


def test_a_question_that_nobody_waits_for_does_not_mislead(address):
    # A worker that asked and ended before it got an answer.
    with pytest.raises(RuntimeError):
        meet(address, 1, 2, 0.1)

    stores = start(address, 2)

    stores[0].set("a", "b")
    assert stores[1].get("a") == b"b"


def test_workers_that_do_not_come_are_named(address):
    with pytest.raises(RuntimeError, match=r"of the workers 0 to 2 these did not come: \[1, 2\]"):
        meet(address, 0, 3, 0.1)


def test_a_missing_key_is_not_waited_for_long(address):
    stores = start(address, 2)

    with pytest.raises(RuntimeError):
        stores[0].wait(["nothing"], timedelta(seconds=0.05))
