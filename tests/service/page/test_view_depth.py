"""The view of images with more than 8 bits and with pages: contrast, histogram, page slider."""

import io

import httpx2 as httpx
import numpy as np
import pytest
import tifffile
from PIL import Image

from service.runtime import views
from tests.support.browser import both, choose, download, middle, named, pixels, seen, settle, split

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect

SHAPE = (120, 200)


def tiff(array):
    data = io.BytesIO()
    tifffile.imwrite(data, array, photometric="minisblack")
    return data.getvalue()


@pytest.fixture(scope="module")
def stack():
    """uint16 (5, H, W): dark pages with photon noise, each 300 counts brighter than the one before."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    scene = 1000 + 600 * np.sin(x / 25) * np.cos(y / 20)
    rng = np.random.default_rng(0)
    return np.stack([300 * page + 20 * rng.poisson(scene / 20) for page in range(5)]).astype(np.uint16)


@pytest.fixture(scope="module")
def floats():
    """float32 (H, W), about 0.02, with one hot pixel."""
    values = np.random.default_rng(0).normal(0.02, 0.001, SHAPE).astype(np.float32)
    values[3, 3] = 5
    return values


def previewed(address, data, **parameters):
    answer = httpx.post(f"{address}preview", content=data, params=parameters, timeout=60)
    return np.repeat(pixels(answer.content)[..., :3], 1, 2)


def points(page):
    low, high = page.locator("#points").inner_text().replace(",", "").split(" to ")
    return float(low), float(high)


def moved(page, name, value):
    page.get_by_role("slider", name=name, exact=True).fill(str(value))
    # The page renders once the handle rests.
    page.wait_for_timeout(300)
    settle(page)


def test_a_dark_image_is_shown_bright_before_and_after(page, stack, address):
    data = tiff(stack[0])
    choose(page, named(data, "cells.tif", "image/tiff"))

    before, after = both(page, SHAPE)
    expect(page.locator("#facts")).to_contain_text("200 × 120, 0.024 Mpx, 16 bits")
    low, high = points(page)
    assert np.percentile(stack[0], 0.05) <= low < np.percentile(stack[0], 1)
    assert np.percentile(stack[0], 99) < high <= np.percentile(stack[0], 99.95)
    auto = {"black": "auto", "white": "auto"}
    np.testing.assert_array_equal(before, previewed(address, data, **auto))
    np.testing.assert_array_equal(after, previewed(address, data, output="clean", **auto))
    assert before.min() == 0
    assert before.max() == 255
    assert before.std() > 40


def test_the_clean_side_is_the_saved_image_between_the_same_points(page, stack):
    choose(page, named(tiff(stack[0]), "cells.tif", "image/tiff"))
    moved(page, "Black point", 500)
    moved(page, "White point", 1500)
    _, after = both(page, SHAPE)
    _, saved = download(page)

    clean = np.asarray(Image.open(io.BytesIO(saved))).astype(float)
    shown = ((clean - 500) * 255 / 1000).clip(0, 255)
    assert points(page) == (500, 1500)
    assert np.abs(after[..., 0] - shown).max() <= 1


def test_floats_are_shown_with_a_hot_pixel_and_points_by_keys(page, floats, address):
    data = tiff(floats)
    choose(page, named(data, "map.tif", "image/tiff"))
    expect(page.locator("#facts")).to_contain_text("32-bit float")
    low, high = points(page)
    black = page.get_by_role("slider", name="Black point", exact=True)
    black.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(300)
    settle(page)
    lowest = points(page)[0]
    split(page, 100)
    shown = middle(seen(page), SHAPE)
    expect(black).to_have_attribute("aria-valuetext", f"{lowest:g}")

    assert (low, high) == pytest.approx((0.0169, 0.0231), abs=0.0003)
    assert lowest < low
    assert np.abs(shown[..., 0] - ((floats - lowest) / (high - lowest) * 255).clip(0, 255)).max() <= 2
    page.get_by_role("button", name="Automatic contrast").click()
    assert points(page) == (low, high)


def test_a_handle_stops_before_the_other(page, stack):
    choose(page, named(tiff(stack[0]), "cells.tif", "image/tiff"))
    _, high = points(page)
    page.get_by_role("slider", name="Black point", exact=True).focus()
    page.keyboard.press("End")

    low, same = points(page)
    assert (low < high, same) == (True, high)


def test_the_histogram_is_drawn_with_a_name(page, stack):
    choose(page, named(tiff(stack[0]), "cells.tif", "image/tiff"))

    expect(page.get_by_role("img", name="Histogram of the image, from ")).to_be_visible()
    assert len(page.locator("#histogram polygon").get_attribute("points").split()) > 200


def test_pages_are_turned_by_slider_buttons_and_keys(page, stack, address):
    data, sent = tiff(stack), []
    page.on("request", lambda request: "view=" not in request.url and sent.append(request.url))
    choose(page, named(data, "stack.tif", "image/tiff"))
    shown, slider = page.locator("#shown-words"), page.get_by_role("slider", name="Shown page")
    expect(page.locator("#facts")).to_contain_text("16 bits, 5 pages")
    low, high = points(page)

    def expect_page(number):
        expect(shown).to_have_text(f"{number} of 5")
        page.wait_for_timeout(200)
        settle(page)
        split(page, 100)
        expected = previewed(address, data, page=number, black=low, white=high)
        np.testing.assert_array_equal(middle(seen(page), SHAPE), expected)

    slider.focus()
    page.keyboard.press("ArrowRight")
    expect_page(2)
    page.get_by_role("button", name="Page after").click()
    expect_page(3)
    page.locator("#viewport").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("<")
    expect_page(1)
    expect(page.get_by_role("button", name="Page before")).to_have_attribute("aria-disabled", "true")
    # The points stay, so that pages can be compared. The file was sent once.
    assert points(page) == (low, high)
    assert [url for url in sent if "/preview" in url or "/estimate" in url] == [
        f"{address}preview?page=1&side=1600&black=auto&white=auto"
    ]


def test_a_single_image_has_no_page_slider(page, file):
    choose(page, named(file))

    expect(page.get_by_role("slider", name="Shown page")).to_be_hidden()


def test_a_view_that_is_gone_is_sent_again(page, file, noisy, monkeypatch):
    choose(page, named(file))
    real, sent = views.Views.get, []

    def get(self, token, owner):
        if not sent:
            raise views.ViewGone
        return real(self, token, owner)

    monkeypatch.setattr(views.Views, "get", get)
    page.on("request", lambda request: "view=" not in request.url and sent.append(request.url))
    page.get_by_label("Model").select_option("scans")
    settle(page)

    before, after = both(page, noisy.shape)
    np.testing.assert_array_equal(before, noisy)
    assert len(sent) == 1
    assert (before != after).any()
    expect(page.locator("#status")).to_be_empty()


def test_a_large_image_is_seen_before_the_service_answers(page, samples, file_of):
    large = np.tile(samples(400, 500), (3, 4, 1))
    waiting, answering = [], []
    page.route("**/preview*", lambda route: route.continue_() if answering else waiting.append(route))
    page.set_input_files("#file", named(file_of(large)))
    page.wait_for_selector("#notice", state="hidden")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    early = seen(page)
    answering.append(True)
    for route in waiting:
        route.continue_()
    expect(page.locator("#facts")).to_contain_text("2000 × 1200", timeout=20_000)
    settle(page)
    split(page, 100)
    late = seen(page)

    assert early.std() > 20
    assert early.shape == late.shape
    assert np.abs(early.astype(int) - late).mean() < 8


def test_each_image_has_its_own_page(page, stack, address):
    files = {"a.tif": tiff(stack), "b.tif": tiff(stack[:3] + 50)}
    choose(page, *(named(data, name, "image/tiff") for name, data in files.items()))
    field, shown = page.get_by_label("Page", exact=True), page.locator("#shown-words")
    # Keys for pages work without the focus.
    page.keyboard.press("PageDown")
    expect(shown).to_have_text("2 of 5")
    field.fill("4")
    field.blur()
    expect(shown).to_have_text("4 of 5")
    page.locator(".item", has_text="b.tif").click()
    expect(page.get_by_role("heading", name="b.tif")).to_be_visible()
    expect(shown).to_have_text("1 of 3")
    expect(field).to_have_value("")
    _, whole = download(page)
    page.locator(".item", has_text="a.tif").click()
    expect(shown).to_have_text("4 of 5")
    expect(field).to_have_value("4")
    _, single = download(page)

    assert [len(tifffile.TiffFile(io.BytesIO(data)).pages) for data in (whole, single)] == [3, 1]


def test_a_single_image_has_no_field_for_the_page(page, stack):
    choose(page, named(tiff(stack[0]), "cells.tif", "image/tiff"))

    expect(page.get_by_label("Page", exact=True)).to_be_hidden()


def test_contrast_is_open_for_deep_images_until_it_is_closed(page, file, stack):
    toggle, group = (
        page.get_by_role("button", name="Contrast", exact=True),
        page.get_by_role("group", name="Contrast of the view"),
    )
    choose(page, named(file), named(tiff(stack[0]), "cells.tif", "image/tiff"))
    expect(group).to_be_hidden()
    expect(toggle).to_have_attribute("aria-expanded", "false")
    page.locator(".item", has_text="cells.tif").click()
    expect(group).to_be_visible()
    toggle.click()
    expect(group).to_be_hidden()
    page.locator(".item", has_text="noisy.png").click()
    settle(page)
    toggle.click()

    expect(group).to_be_visible()
    expect(toggle).to_have_attribute("aria-expanded", "true")
