"""The view and the download share one result."""

import threading
import time

import numpy as np
import pytest

from service.runtime import stages
from tests.support.browser import (
    arrive,
    assert_close,
    both,
    choose,
    download,
    named,
    pixels,
    served,
    set_range,
    settle,
)

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect


@pytest.fixture(scope="module")
def keeping(settings):
    """The address of a service that keeps results."""
    with served(settings.model_copy(update={"cache_bytes": 10**8})) as address:
        yield address


@pytest.fixture
def shapes(monkeypatch):
    """The shapes of all images that went through the network."""
    shapes, real = [], stages.TiledDenoiser

    def noted(net, image, *args, **how):
        shapes.append(tuple(image.samples.shape[:2]))
        return real(net, image, *args, **how)

    monkeypatch.setattr(stages, "TiledDenoiser", noted)
    return shapes


@pytest.fixture(scope="module")
def large(samples):
    return np.tile(samples(400, 500), (3, 2, 1))


def test_what_was_denoised_for_the_view_is_saved_at_once(keeping, visit, file, noisy, shapes):
    page = visit(at=keeping)
    choose(page, named(file))
    _, after = both(page, noisy.shape)
    name, saved = download(page)

    assert shapes == [(150, 240)]
    assert name == "noisy-denoised.png"
    assert_close(after, pixels(saved))
    expect(page.locator("#status")).to_contain_text("Saved: noisy-denoised.png, denoised by photo-gaussian")


def test_a_large_image_in_view_is_denoised_whole_and_once(keeping, visit, large, file_of, shapes):
    page = visit(at=keeping)
    choose(page, named(file_of(large)))
    page.get_by_role("button", name="Actual size").click()
    settle(page)
    download(page)

    assert shapes == [(1200, 1000)]


def test_a_download_waits_for_the_view_and_takes_its_image(keeping, visit, samples, file_of, shapes, monkeypatch):
    begun, real = threading.Event(), stages.DenoiseStage.denoise

    async def slow(*args, **how):
        begun.set()
        time.sleep(0.5)
        return await real(*args, **how)

    monkeypatch.setattr(stages.DenoiseStage, "denoise", slow)
    page = visit(at=keeping)
    arrive(page, named(file_of(samples(150, 240, seed=9))))
    assert begun.wait(20)
    download(page)

    assert shapes == [(150, 240)]


def test_a_download_with_other_options_does_not_wait(page, large, file_of, api, shapes):
    data = file_of(large)
    choose(page, named(data))
    set_range(page, "Luminance", 50)
    assert download(page)[1] == api(data, luma=0.5)
    settle(page)
    # The view, the download, and what the test asked for.
    assert shapes == [(1200, 1000)] * 3


def test_saving_all_takes_the_image_in_view(keeping, visit, samples, file_of, shapes):
    page = visit(at=keeping)
    arrive(page, *(named(file_of(samples(90, 120, seed=seed)), f"{seed}.png") for seed in (5, 6)))
    name, _ = download(page, "Download all 2")
    settle(page)

    assert name == "denoised.zip"
    assert shapes == [(90, 120)] * 2
