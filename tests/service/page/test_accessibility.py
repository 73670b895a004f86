"""The page as axe-core sees it: names, roles, contrast, landmarks."""

import json

import pytest

from tests.support.browser import choose, named

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-core: pip install '.[browser]'"
)


def empty(page, file):
    pass


def opened(page, file):
    choose(page, named(file, "a.png"), named(file, "b.png"))


def unfolded(page, file):
    opened(page, file)
    for summary in page.locator("summary:visible").all():
        summary.click()
    page.get_by_label("Format", exact=True).select_option("jpeg")


def failed(page, file):
    choose(page, named(b"no image", "letter.txt"))
    page.get_by_text("This image cannot be shown.").wait_for()


def with_a_job(page, file):
    page.route("**/jobs/*", lambda route: route.fulfill(json={"state": "running", "progress": 0.4}))
    stored = json.dumps([{"id": "1", "name": "night.png", "output": "clean"}])
    page.evaluate("(text) => localStorage.setItem('jobs', text)", stored)
    page.reload()
    page.get_by_text("40 % done").wait_for()
    opened(page, file)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", [empty, opened, unfolded, failed, with_a_job])
def test_axe_finds_no_fault(state, scheme, visit, file):
    page = visit(color_scheme=scheme, viewport={"width": 1400, "height": 900})
    state(page, file)

    found = axe.Axe().run(page)

    assert found.violations_count == 0, found.generate_report()


def test_axe_finds_no_fault_on_a_phone(visit, file):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    unfolded(page, file)

    found = axe.Axe().run(page)

    assert found.violations_count == 0, found.generate_report()
