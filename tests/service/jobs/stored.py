"""Jobs in a store: added, finished, found."""

import asyncio

from service.jobs.records import JobRequest, Result
from service.jobs.spool_store import SpoolJobStore

HOUR = 3600.0
ABOUT = ("scan.png", "image/png", '{"X-Denoise-Model": "photo"}', "abc")


def id_of(letter):
    return letter * 22


def upload(store, letter, content=b"upload"):
    with store.upload_file(id_of(letter)) as file:
        file.write(content)


def add(store, letter, owner="ann", size=10, key=None, fingerprint=None, task="denoise"):
    upload(store, letter, b"u" * size)
    job = JobRequest(owner, f"{letter}.png", "{}", "[]", "request", size, key, fingerprint, task)
    return store.admit(id_of(letter), job)


def finish(store, job, size=20, content=b"r"):
    with store.result_file(job) as file:
        file.write(content * size)
    store.finish(job, Result(*ABOUT, size))


def do(store, letter, owner="ann", size=20):
    add(store, letter, owner)
    finish(store, store.claim(), size)


def found(store, letter, owner="ann"):
    return store.find(id_of(letter), owner)


def read(store, job):
    """The bytes of a result."""
    stored = store.result(job)
    if isinstance(store, SpoolJobStore):
        return stored.read_bytes()
    return asyncio.run(stored.read(0, stored.size))


def files(store):
    """The store's uploads and results: `a.upload`, `b.result`."""
    if isinstance(store, SpoolJobStore):
        names = [path.name for path in store._folder.iterdir() if not path.name.startswith("jobs.sqlite")]
        return sorted(name.replace(name[:22], name[0]) if name[1:22] == name[0] * 21 else name for name in names)
    names = [name.split("/") for name in store._blobs.list("jobs")]
    return sorted(f"{id_[0]}.{file.split('.')[-1]}" for _, id_, file in names)


def pass_time(clocks, seconds):
    clocks.now += seconds
    clocks.up += seconds


def shift_times(store, seconds):
    """Makes all that a shared store knows older."""
    for table, columns in {
        "denoise_jobs": ("created", "started", "ended", "expires", "lease_ends"),
        "denoise_job_sweep": ("swept",),
        "denoise_job_strays": ("seen",),
    }.items():
        change = ", ".join(f"{column} = {column} - %(by)s * interval '1 second'" for column in columns)
        store._database.rows(f"UPDATE {table} SET {change}", {"by": seconds})
