"""Owners of jobs: each API key sees and pays for its own jobs."""

from fastapi.testclient import TestClient

from service.app import create_app
from tests.service.api.jobs.job_client import IN_BOTH_STORES, submit, wait_until
from tests.support.problems import assert_problem

pytestmark = IN_BOTH_STORES


def test_jobs_of_other_keys_are_invisible(settings, noisy):
    keys = {name: name * 11 for name in ("ann", "bob")}
    ann, bob = ({"x-api-key": key} for key in keys.values())
    given = ",".join(f"{name}:{key}" for name, key in keys.items())
    with TestClient(create_app(settings.model_copy(update={"keys": given}))) as client:
        job = client.post("/jobs", content=noisy, headers=ann).headers["location"]
        none = "/jobs/not-a-job"

        for address in (job, f"{job}/events", f"{job}/result"):
            other, nobody = (client.get(each, headers=bob) for each in (address, address.replace(job, none)))
            assert_problem(other, 404, "There is no job")
            assert other.text.replace(job[6:], none[6:]) == nobody.text
        assert client.delete(job, headers=bob).status_code == 404
        assert client.get("/jobs", headers=bob).json() == []
        assert [f"/jobs/{each['id']}" for each in client.get("/jobs", headers=ann).json()] == [job]
        assert client.get(job).status_code == 401


def test_an_open_service_lists_no_jobs(settings, noisy):
    with TestClient(create_app(settings.model_copy(update={"open": True}))) as client:
        job = submit(client, noisy)

        assert_problem(client.get("/jobs"), 403, "no API keys")
        assert client.get(job).status_code == 200


def test_a_jobs_pixels_count_against_its_key(settings, noisy):
    ann = {"x-api-key": "a" * 40}
    limited = settings.model_copy(update={"keys": f"ann:{'a' * 40}", "key_pixels": 10, "key_rate": None})
    with TestClient(create_app(limited)) as client:
        first = client.post("/jobs", content=noisy, headers=ann).headers["location"]
        worker = client.app_state["worker"]
        wait_until(lambda: not worker.running and client.portal.call(worker.newest, "ann", 9)[0].state == "done")

        refused = client.post("/jobs", content=noisy, headers=ann)

    assert first
    assert_problem(refused, 429, "pixels an hour")
