"""Jobs on the page: a reload, a lost connection, and the warning before leaving."""

import json
import threading
import time

import httpx2 as httpx
import pytest

from service.runtime import stages
from tests.support.browser import choose, download, named, pixels, settle

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect


@pytest.fixture
def large(noisy, file_of):
    """A file that the page sends as a job. Large in bytes only: what follows the pixels takes no time."""
    return file_of(noisy, "BMP") + bytes(8_000_000)


@pytest.fixture
def held(monkeypatch):
    """Work that begins after start_job waits at its end until this event is set."""
    event, encode = threading.Event(), stages.encode
    event.set()

    def wait(*args, **kwargs):
        assert event.wait(20)
        return encode(*args, **kwargs)

    monkeypatch.setattr(stages, "encode", wait)
    yield event
    event.set()


def begin(page, data, name="large.bmp"):
    choose(page, named(data, name, "image/bmp"))


def remember(page, job, name):
    """Makes the browser keep a job, as an earlier visit would have."""
    stored = json.dumps([{"id": job, "name": name, "output": "clean"}])
    page.evaluate("(text) => localStorage.setItem('jobs', text)", stored)


def is_submission(answer):
    return answer.request.method == "POST" and "/jobs" in answer.url


def start_job(page, held):
    held.clear()
    with page.expect_response(is_submission) as answered:
        page.get_by_role("button", name="Download", exact=True).click()
    # The page has read the answer, and remembers the job.
    page.wait_for_function("localStorage.getItem('jobs')")
    return answered.value.request


def test_a_reload_loses_no_job(page, large, held, api, address):
    begin(page, large)
    # With the key, a proxy may send the job again.
    assert len(start_job(page, held).headers["idempotency-key"]) == 32
    page.reload()
    job = page.locator("#job-list li")
    expect(job).to_contain_text("large.bmp")
    expect(job.get_by_role("button", name="Save large.bmp")).to_be_hidden()
    held.set()
    expect(job).to_contain_text("ready to save")
    expect(page.locator("#job-news")).to_have_text("large.bmp: ready to save")
    name, data = download(page, "Save large.bmp")
    expect(page.locator("#jobs")).to_be_hidden()

    assert (name, data) == ("large-denoised.png", api(large))
    assert page.evaluate("localStorage.length") == 0
    with httpx.Client(base_url=address) as client:
        # The page deletes the job in the background.
        while client.get("jobs").json():
            time.sleep(0.01)


def test_a_job_of_an_earlier_visit_can_be_discarded(page, large, held, address):
    begin(page, large)
    start_job(page, held)
    page.reload()
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.get_by_role("button", name="Discard large.bmp").click()

    expect(page.locator("#jobs")).to_be_hidden()
    assert page.evaluate("localStorage.length") == 0
    assert httpx.get(f"{address}jobs").json() == []


def test_a_job_that_failed_meanwhile_says_why(page):
    job = httpx.post(f"{page.url}jobs", content=b"no image").json()["id"]
    remember(page, job, "broken.png")
    page.reload()

    expect(page.locator("#job-list li")).to_contain_text("failed: This is not an image")
    page.get_by_role("button", name="Discard broken.png").click()
    expect(page.locator("#jobs")).to_be_hidden()


def test_a_job_that_expired_is_forgotten(page):
    remember(page, "gone", "old.png")
    page.reload()

    expect(page.locator("#job-list li")).to_contain_text("no longer on the server")
    assert page.evaluate("localStorage.length") == 0


@pytest.mark.parametrize("stored", ["no JSON", "null", "[]"])
def test_the_page_opens_whatever_the_browser_has_kept(stored, page, file):
    page.evaluate("(text) => localStorage.setItem('jobs', text)", stored)
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    choose(page, named(file))

    expect(page.locator("#jobs")).to_be_hidden()


def leaving(page):
    """Whether the page warns of leaving."""
    return page.evaluate("!dispatchEvent(new Event('beforeunload', { cancelable: true }))")


def test_leaving_is_warned_of_until_the_image_is_saved(page, file):
    before = leaving(page)
    choose(page, named(file))
    unsaved = leaving(page)
    download(page)
    expect(page.locator("#status")).to_contain_text("Saved: ")
    saved = leaving(page)

    assert (before, unsaved, saved) == (False, True, False)


def test_leaving_is_warned_of_while_work_runs(page, large, held):
    begin(page, large)
    start_job(page, held)

    assert leaving(page)
    page.get_by_role("button", name="Cancel").click()


def test_saving_again_with_the_same_options_asks_nothing(page, file, api):
    choose(page, named(file))
    first = download(page)
    expect(page.locator("#status")).to_contain_text(" denoised by ")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    second = download(page)
    expect(page.locator("#status")).to_contain_text("earlier")
    same = list(asked)
    page.get_by_label("Format", exact=True).select_option("webp")
    other = download(page)

    assert first == second == ("noisy-denoised.png", api(file))
    assert same == []
    assert other == ("noisy-denoised.webp", api(file, format="webp"))
    assert len(pixels(other[1])) == 150
    settle(page)
