"""Jobs in a store: added, finished, found."""

from service.jobs.store import JobRequest, Result

HOUR = 3600.0
RESULT = Result("scan.png", "image/png", '{"X-Denoise-Model": "photo"}', "abc")


def id_of(letter):
    return letter * 22


def add(store, letter, owner="ann", size=10):
    store.upload_path(id_of(letter)).write_bytes(b"u" * size)
    return store.admit(id_of(letter), JobRequest(owner, f"{letter}.png", "{}", "[]", "request"))


def finish(store, letter, size=20):
    store.result_path(id_of(letter)).write_bytes(b"r" * size)
    store.finish(id_of(letter), RESULT)


def do(store, letter, owner="ann", size=20):
    add(store, letter, owner)
    store.claim()
    finish(store, letter, size)


def found(store, letter, owner="ann"):
    return store.find(id_of(letter), owner)


def files(store):
    """The names of the store's files, without those of SQLite."""
    folder = store.upload_path(id_of("a")).parent
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("jobs.sqlite"))


def pass_time(clocks, seconds):
    clocks.now += seconds
    clocks.up += seconds
