"""Fixtures for the page in Chromium, with a real service."""

import shutil

import httpx2 as httpx
import pytest

from service.settings import Settings
from tests.support.browser import served

# Chromium has no sandbox for root. The other flags keep it off the network and its colours exact.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
]
MAX_PIXELS = 3_000_000


@pytest.fixture(scope="module")
def settings(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("photo", "photo-gaussian", "photo-grey", "scans")):
        save_tiny(folder / f"{name}.safetensors", seed=seed)
    # Each request is computed, whatever an earlier test sent.
    return Settings(weights=folder, device="cpu", precision="float32", max_pixels=MAX_PIXELS, cache_bytes=0)


@pytest.fixture(scope="module")
def address(settings, tmp_path_factory):
    with served(settings.model_copy(update={"spool": tmp_path_factory.mktemp("spool")})) as address:
        yield address


@pytest.fixture(scope="module")
def api(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield lambda data, **parameters: client.post("denoise", content=data, params=parameters).content


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'")
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """visit(**options of the context): opens the page. Fails at the end if the page logged an error.

    at: the service's address. ready: a selector that exists once the page is open.
    """
    contexts, faults = [], []

    def heard(message):
        # The browser itself logs each response with an error status.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    def open_page(at=address, ready="#model option", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", heard)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error(`refused: ${e.violatedDirective}`))"
        )
        page.goto(at)
        page.wait_for_selector(ready, state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(visit):
    return visit()


@pytest.fixture(scope="module")
def noisy(samples):
    return samples(150, 240)


@pytest.fixture(scope="module")
def file(noisy, file_of):
    return file_of(noisy)
