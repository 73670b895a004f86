"""Deleting jobs: waiting, running and finished ones."""

from concurrent.futures import ThreadPoolExecutor

from tests.service.api.jobs.job_client import (
    IN_BOTH_STORES,
    SOON,
    ended,
    events,
    stored_files,
    submit,
    wait_until,
)

pytestmark = IN_BOTH_STORES


def test_a_waiting_job_can_be_deleted(client, noisy, held, settings):
    first, second = submit(client, noisy), submit(client, noisy)
    held.wait()

    assert client.delete(second).status_code == 204
    assert client.get(second).status_code == 404
    assert client.delete(second).status_code == 404
    assert len(stored_files(settings)) == 1
    held.go.set()
    assert ended(client, first)["state"] == "done"


def test_a_running_job_can_be_deleted_and_listeners_are_notified(client, noisy, held, settings):
    job = submit(client, noisy)
    held.wait()
    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(client.get, f"{job}/events")
        wait_until(lambda: client.app.state.shutdown.working)
        answer = client.delete(job)
        heard_jobs = [job for _, job in events(heard.result(SOON).text.splitlines())]

    assert answer.status_code == 204
    assert held.disconnected.wait(SOON)
    assert heard_jobs[-1]["state"] in ("cancelled", "running")
    assert client.get(job).status_code == 404
    assert stored_files(settings) == []


def test_a_deleted_running_job_stops_at_its_next_window(serve, noisy):
    with serve(held=True) as server:
        job = server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()

        status, _, _ = server.ask(f"DELETE {job}")

        assert status == 204
        server.wait_for_work("cancelled")
        assert server.ask(f"GET {job}")[0] == 404


def test_a_result_can_be_deleted(client, noisy, settings):
    job = submit(client, noisy)
    ended(client, job)

    assert client.delete(job).status_code == 204
    assert client.get(f"{job}/result").status_code == 404
    assert stored_files(settings) == []
