"""Meeting of the workers of a run: how those that were started together find each other, and no others.

torchrun keeps one store of keys while it starts workers again. It then still holds the addresses of workers that
have ended, and a new worker that reads them connects to nobody (pytorch issue 135712). A count of restarts is no
help, as each torchrun counts its own. So each start of the workers takes a name that is new, for keys of its own.
"""

import secrets
import time
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

# Seconds between two looks at the store.
INTERVAL = 0.02


def meet(method: str, rank: int, count: int, timeout: float) -> Store:
    """A store in which there are only keys of these workers. Raises RuntimeError if they do not all come.

    method: where they meet, as `init_process_group` takes it. timeout: in seconds.
    """
    limit = timedelta(seconds=timeout)
    store, rank, count = next(rendezvous(method, rank, count, timeout=limit))
    name = _lead(store, count, timeout) if rank == 0 else _follow(store, rank, limit)
    return PrefixStore(name, store)


def _lead(store: Store, count: int, timeout: float) -> str:
    """Tell all others the name of this meeting, until each has heard it."""
    name, missing = secrets.token_hex(8), set(range(1, count))
    deadline = time.monotonic() + timeout
    while missing:
        for other in sorted(missing):
            if store.check([f"joined/{name}/{other}"]):
                missing.remove(other)
            elif store.check([f"asks/{other}"]):
                # Perhaps still the question of a worker that has ended: then it will be asked again.
                question = store.get(f"asks/{other}").decode()
                store.set(f"answer/{question}", name)
        if time.monotonic() > deadline:
            raise RuntimeError(f"of the workers 0 to {count - 1} these did not come: {sorted(missing)}")
        time.sleep(INTERVAL)
    return name


def _follow(store: Store, rank: int, limit: timedelta) -> str:
    """Ask worker 0 for the name of the meeting. No earlier worker has asked the same question."""
    question = secrets.token_hex(8)
    store.set(f"asks/{rank}", question)
    store.wait([f"answer/{question}"], limit)
    name = store.get(f"answer/{question}").decode()
    store.set(f"joined/{name}/{rank}", "")
    return name
