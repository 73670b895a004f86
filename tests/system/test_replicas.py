"""Two replicas, each in a process of its own, with one PostgreSQL and one bucket."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from service.auth.api_keys import add_key
from service.storage.blobs import Blobs
from tests.support.served import SOON, request, serving

LEASE = 3  # seconds
# Images wait for as long as the file HOLD exists, or until their client leaves.
HELD = """
import asyncio, os
from service.runtime.scheduler import Cancelled, Ticket
real = Ticket.in_network

async def held(ticket, piece):
    print("in work", flush=True)
    while os.path.exists(os.environ["HOLD"]):
        try:
            ticket.flow.check()
        except Cancelled:
            print("cancelled", flush=True)
            raise
        await asyncio.sleep(0.01)
    await real(ticket, piece)

Ticket.in_network = held
"""


@pytest.fixture(scope="module")
def noisy(samples, file_of):
    return file_of(samples(21, 34))


@pytest.fixture(scope="module")
def cluster(folder, postgres, s3, tmp_path_factory):
    """Two replicas. hold: a file. keys: one without limits, and one with five requests a minute."""
    place = tmp_path_factory.mktemp("cluster")
    bucket, keys = s3.new_bucket(), place / "keys"
    free, limited = add_key(keys, "free"), add_key(keys, "limited", rate=5)
    env = {
        "DENOISE_DATABASE": postgres.new_database(),
        "DENOISE_BLOBS": bucket,
        "DENOISE_LEASE_SECONDS": str(LEASE),
        "DENOISE_KEYS_FILE": str(keys),
        "HOLD": str(place / "hold"),
        # Every job runs, although all send the same image.
        "DENOISE_CACHE_BYTES": "0",
    }
    with serving(folder, code=HELD, env=env) as one, serving(folder, code=HELD, env=env) as other:
        yield SimpleNamespace(
            replicas=(one, other), hold=place / "hold", free=free, limited=limited, blobs=Blobs(bucket)
        )


@pytest.fixture
def held(cluster):
    cluster.hold.touch()
    yield cluster.hold
    cluster.hold.unlink(missing_ok=True)


def ask(replica, head, key, body=b""):
    """(status, headers, body) of one request."""
    with replica.connect() as connection:
        connection.sendall(with_key(head, key, body))
        with connection.makefile("rb") as file:
            status = int(file.readline().split()[1])
            headers = {}
            while line := file.readline().strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            return status, headers, file.read(int(headers.get("content-length", 0)))


def with_key(head, key, body=b""):
    return request(head, body).replace(b"host: here\r\n", f"host: here\r\nx-api-key: {key}\r\n".encode(), 1)


def wait_until(happened):
    end = time.monotonic() + SOON
    while not (result := happened()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return result


def state_of(replica, job, key):
    status, _, body = ask(replica, f"GET {job}", key)
    return json.loads(body)["state"] if status == 200 else status


def runner_of(cluster):
    """The replica that runs the job, and the other one."""
    one, other = cluster.replicas
    first = wait_until(lambda: next((each for each in cluster.replicas if not each.printed.empty()), None))
    first.wait_for_work()
    return (one, other) if first is one else (other, one)


def submit(cluster, noisy):
    status, headers, _ = ask(cluster.replicas[0], "POST /jobs", cluster.free, noisy)
    assert status == 202
    return headers["location"]


def test_a_job_is_posted_to_one_and_watched_and_fetched_from_the_other(cluster, held, noisy):
    job = submit(cluster, noisy)
    runner, other = runner_of(cluster)
    with other.connect() as listener, listener.makefile("rb") as heard:
        listener.sendall(with_key(f"GET {job}/events", cluster.free))
        wait_until(lambda: b'"state":"running"' in heard.readline())
        held.unlink()
        wait_until(lambda: b'"state":"done"' in heard.readline())
    result = ask(other, f"GET {job}/result", cluster.free)
    at_once = ask(runner, "POST /denoise", cluster.free, noisy)

    assert (result[0], result[2]) == (200, at_once[2])
    assert ask(other, f"DELETE {job}", cluster.free)[0] == 204
    assert ask(runner, f"GET {job}", cluster.free)[0] == 404
    clear(cluster)


def clear(cluster):
    """Forgets what the replicas printed."""
    for replica in cluster.replicas:
        while not replica.printed.empty():
            replica.printed.get()


def test_a_job_that_runs_is_stopped_by_a_delete_at_the_other(cluster, held, noisy):
    job = submit(cluster, noisy)
    runner, other = runner_of(cluster)

    assert ask(other, f"DELETE {job}", cluster.free)[0] == 204
    runner.wait_for_work("cancelled")
    assert ask(runner, f"GET {job}", cluster.free)[0] == 404


def test_the_job_of_a_replica_that_stopped_is_done_once_by_the_other(cluster, held, noisy):
    job = submit(cluster, noisy)
    runner, other = runner_of(cluster)
    runner.stop(signal.SIGSTOP)
    try:
        # Once the lease has run out.
        other.wait_for_work()
        held.unlink()
        wait_until(lambda: state_of(other, job, cluster.free) == "done")
        # What it logged of earlier jobs.
        while not runner.lines.empty():
            runner.lines.get()
    finally:
        runner.stop(signal.SIGCONT)
    # The runner goes on, and finds that the job is no longer its own.
    ended = runner.wait_for("job")
    result = ask(runner, f"GET {job}/result", cluster.free)
    at_once = ask(runner, "POST /denoise", cluster.free, noisy)

    assert ended["error"] in ("Cancelled", "LeaseLost")
    assert (result[0], result[2]) == (200, at_once[2])
    id_ = job.rpartition("/")[2]
    assert [name for name in cluster.blobs.list("jobs") if id_ in name] == [f"jobs/{id_}/2.result"]
    clear(cluster)


def test_exactly_five_requests_a_minute_pass_over_two_replicas(cluster):
    def models(number):
        return ask(cluster.replicas[number % 2], "GET /models", cluster.limited)[0]

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(models, range(20)))

    assert sorted(statuses) == [200] * 5 + [429] * 15
