"""Downloads: formats, several images, jobs, cancelling."""

import threading
import time
from itertools import repeat
from types import SimpleNamespace

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from service.runtime import stages
from tests.support.browser import (
    arrive,
    assert_close,
    both,
    choose,
    download,
    named,
    pixels,
    seen,
    set_range,
    settle,
    split,
    where,
)
from tests.support.windows import Net, window

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect


def test_a_download_has_the_services_own_bytes(page, file, api):
    choose(page, named(file, "Night at sea.jpeg"))

    assert download(page) == ("Night at sea-denoised.png", api(file))
    expect(page.locator("#status")).to_contain_text("Saved: Night at sea-denoised.png")


@pytest.mark.parametrize(
    "sliders",
    [{"Strength": 40}, {"Luminance": 0}, {"Colour": 0}, {"Strength": 70, "Luminance": 20, "Colour": 90}],
)
def test_sliders_change_the_view_and_the_download_alike(sliders, page, file, noisy, api):
    names = {"Strength": "strength", "Luminance": "luma", "Colour": "chroma"}
    parameters = {names[name]: percent / 100 for name, percent in sliders.items()}

    choose(page, named(file))
    for name, percent in sliders.items():
        set_range(page, name, percent)
    _, after = both(page, noisy.shape)
    _, saved = download(page)

    expected, clean = api(file, **parameters), pixels(api(file))
    # The page mixes results that are clipped at black and white.
    inside = ((clean > 0) & (clean < 255)).all(2)
    assert inside.mean() > 0.5
    assert_close(after[inside], pixels(expected)[inside])
    assert np.abs(pixels(expected)[inside].astype(int) - clean[inside]).max() > 5
    assert saved == expected


def test_another_model_changes_the_view_and_the_download(page, file, noisy, api):
    choose(page, named(file))
    expect(page.locator("#noise")).to_contain_text("Model auto takes ")
    page.get_by_label("Model").select_option("scans")
    expect(page.locator("#noise")).not_to_contain_text("Model auto takes ")
    settle(page)
    _, after = both(page, noisy.shape)
    _, saved = download(page)

    assert_close(after, pixels(api(file, model="scans")))
    assert saved == api(file, model="scans")


def test_a_large_file_is_saved_as_a_job_with_progress(page, noisy, file_of, address):
    # Large in bytes only: what follows the pixels takes no time.
    large = file_of(noisy, "BMP") + bytes(8_000_000)
    choose(page, named(large, "large.bmp", "image/bmp"))
    asked = []
    page.on("request", lambda request: asked.append((request.method, request.url.removeprefix(address))))
    page.evaluate(
        "() => { window.shown = []; new MutationObserver(() => window.shown.push(progress.value))"
        ".observe(document.getElementById('progress'), { attributeFilter: ['value'] }); }"
    )

    with httpx.Client(base_url=address, timeout=60) as client:
        name, data = download(page)
        expected = client.post("denoise", content=large).content
        # The page deletes the job in the background.
        while client.get("jobs").json():
            time.sleep(0.01)

    assert (name, data) == ("large-denoised.png", expected)
    assert asked[0] == ("POST", "jobs?output=clean")
    assert page.evaluate("shown.at(-1)") == 1


@pytest.mark.parametrize(
    ("fields", "name", "parameters"),
    [
        ({"Format": "jpeg", "Quality": "80"}, "noisy-denoised.jpg", {"format": "jpeg", "quality": 80}),
        ({"Format": "webp"}, "noisy-denoised.webp", {"format": "webp"}),
        ({"Format": "tiff", "Save": "residual"}, "noisy-removed.tiff", {"format": "tiff", "output": "residual"}),
        ({"Save": "compare"}, "noisy-compared.png", {"output": "compare"}),
    ],
)
def test_output_format_and_quality_can_be_chosen(fields, name, parameters, page, file, api):
    choose(page, named(file))
    for label, value in fields.items():
        page.get_by_label(label, exact=True).select_option(value)

    assert download(page) == (name, api(file, **parameters))


def test_an_image_over_the_limit_is_told_and_not_saved(page, samples, file_of):
    arrive(page, named(file_of(np.tile(samples(310, 500), (5, 4, 1)))))

    expect(page.locator("#status")).to_contain_text("3100000 pixels")
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_disabled()


def test_work_can_be_cancelled_and_the_service_stops(page, file, monkeypatch):
    choose(page, named(file))
    begun, ended = threading.Event(), threading.Event()

    def windows():
        begun.set()
        try:
            yield from repeat(window(Net()))
        finally:
            ended.set()

    monkeypatch.setattr(stages, "TiledDenoiser", lambda *args, **how: SimpleNamespace(windows=windows()))
    page.get_by_role("button", name="Download", exact=True).click()
    expect(page.get_by_role("progressbar", name="Denoising")).to_be_visible()
    assert begun.wait(20)
    page.get_by_role("button", name="Cancel").click()

    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(page.locator("#work")).to_be_hidden()
    assert ended.wait(20)


def test_a_single_page_of_a_document_is_shown_and_saved(page, file_of, samples, api):
    first, second = (Image.fromarray(samples(60, 90, seed=seed)) for seed in (0, 1))
    data = file_of(first, "TIFF", save_all=True, append_images=[second])
    choose(page, named(data, "book.tif", "image/tiff"))

    expect(page.get_by_label("Format", exact=True)).to_have_value("same")
    whole = download(page)
    page.get_by_label("Page", exact=True).fill("2")
    page.get_by_label("Page", exact=True).blur()
    settle(page)
    before, _ = both(page, (60, 90))

    assert whole == ("book-denoised.tiff", api(data, format="tiff"))
    np.testing.assert_array_equal(before, np.asarray(second))
    assert download(page) == ("book-denoised.tiff", api(data, format="tiff", page=2))


@pytest.fixture(scope="module")
def mixed(samples):
    """1,104 x 1,600 pixels, white noise in the middle and around it noise that neighbours share."""
    rng = np.random.default_rng(0)
    around = rng.normal(0, 12, (552, 800, 3)).repeat(2, 0).repeat(2, 1)
    around = sum(np.roll(around, (y, x), (0, 1)) for y in range(3) for x in range(3)) / 9
    image = around
    image[40:1064, 288:1312] = rng.normal(0, 12, (1024, 1024, 3))
    # Each tile has dark and bright parts, as the whole has, so none is taken for an image with an offset.
    squares = np.add.outer(np.arange(1104) // 64, np.arange(1600) // 64) % 2
    return (image + np.where(squares, 200, 40)[..., np.newaxis]).clip(0, 255).astype(np.uint8)


def test_one_model_serves_all_parts_and_the_download(page, mixed, file_of, api):
    data = file_of(mixed)
    arrive(page, named(data))
    noise = page.locator("#noise")
    # Not the model for the noise in the middle.
    expect(noise).to_contain_text("Model auto takes photo,", timeout=20_000)
    page.get_by_role("button", name="Actual size").click()
    settle(page)
    split(page, 100)
    part = where(seen(page), mixed)
    split(page, 0)
    first = seen(page)
    _, saved = download(page)
    settle(page)
    last = seen(page)

    assert saved == api(data) == api(data, model="photo")
    assert_close(first, pixels(saved)[part])
    np.testing.assert_array_equal(last, first)
