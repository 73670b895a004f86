"""The view of an image: the line, zoom, sliders and the preview's tiles."""

import re
import time

import numpy as np
import pytest
from PIL import Image

from service.runtime import stages
from tests.support.browser import (
    CLOSE,
    arrive,
    assert_close,
    both,
    choose,
    middle,
    named,
    pixels,
    seen,
    settle,
    split,
)

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect


def test_the_line_follows_the_pointer_and_the_arrow_keys(page, file, noisy):
    choose(page, named(file))
    stage = page.locator("#stage").bounding_box()
    left, width, height = stage["x"], stage["width"], stage["y"] + stage["height"] / 2
    slider = page.get_by_role("slider", name="Part of the view that shows the original image")

    page.mouse.move(left + width / 2, height)
    page.mouse.down()
    page.mouse.move(left + width / 2 + 60, height)
    page.mouse.up()
    settle(page)
    dragged = float(slider.input_value())
    image = middle(seen(page), noisy.shape)
    slider.focus()
    page.keyboard.press("ArrowLeft")

    assert dragged == pytest.approx(50 + 100 * 60 / width, abs=0.5)
    line = noisy.shape[1] // 2 + 60
    np.testing.assert_array_equal(image[:, : line - 3], noisy[:, : line - 3])
    assert (image[:, line + 3 :] != noisy[:, line + 3 :]).mean() > 0.3
    assert float(slider.input_value()) == dragged - 0.5


def test_zoomed_in_both_sides_show_the_same_pixels(page, file, noisy, api):
    choose(page, named(file))
    for _ in range(3):
        page.get_by_role("button", name="Zoom in").click()
    settle(page)

    assert page.locator("#scale").inner_text() == "800 %"
    clean = pixels(api(file))
    for percent, expected in ((100, noisy), (0, clean)):
        split(page, percent)
        view = seen(page)
        row, column = view.shape[0] // 2, view.shape[1] // 2
        block = view[row : row + 80, column : column + 80]
        # Every pixel is a block of 8 x 8, and the middle stays in the middle.
        np.testing.assert_array_equal(block, np.repeat(np.repeat(block[4::8, 4::8], 8, 0), 8, 1))
        assert_close(block[4::8, 4::8], expected[75:85, 120:130])


def test_two_fingers_zoom_and_one_moves_the_line(visit, file):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    choose(page, named(file))
    box = page.locator("#viewport").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)

    def fingers(kind, *places):
        points = [{"x": x + dx, "y": y, "id": number} for number, dx in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", 0)
    for step in range(1, 6):
        fingers("touchMove", 10 * step)
    fingers("touchEnd")
    line = float(page.locator("#split").input_value())
    fingers("touchStart", -40, 40)
    for step in range(1, 9):
        fingers("touchMove", -40 - 10 * step, 40 + 10 * step)
    fingers("touchEnd")
    settle(page)

    assert line == pytest.approx(50 + 100 * 50 / box["width"], abs=4)
    assert 250 <= int(page.locator("#scale").inner_text()[:-2]) <= 320
    assert float(page.locator("#split").input_value()) == line


@pytest.mark.parametrize("dimmed", [1, 4])
def test_removed_noise_is_shown_on_grey_and_amplified(dimmed, page, noisy, file_of, api):
    dim = noisy // dimmed
    choose(page, named(file_of(dim)))
    page.get_by_role("radio", name="Removed").check()
    settle(page)
    label = re.fullmatch(r"removed(?:, amplified (\d+) times)?", page.locator("#tag-removed").inner_text())
    gain = int(label[1] or 1)

    removed = dim.astype(int) - pixels(api(file_of(dim)))
    view = middle(seen(page), dim.shape)
    assert (gain > 1) == (dimmed > 1)
    assert np.abs(view - np.clip(128 + gain * removed, 0, 255)).max() <= gain * CLOSE
    assert removed.any()


def test_only_visible_tiles_are_sent(page, samples, file_of, monkeypatch):
    large = np.tile(samples(400, 500), (3, 2, 1))
    shapes, real = [], stages.TiledDenoiser

    def noted(net, image, *args, **how):
        shapes.append(image.samples.shape)
        return real(net, image, *args, **how)

    page.set_viewport_size({"width": 800, "height": 600})
    choose(page, named(file_of(large)))
    page.get_by_role("button", name="Actual size").click()
    settle(page)
    monkeypatch.setattr(stages, "TiledDenoiser", noted)
    page.get_by_label("Model").select_option("scans")
    settle(page)

    assert shapes
    assert max(max(shape) for shape in shapes) <= 512 + 2 * 64
    assert len(shapes) < 3 * 2


def test_tiles_of_the_preview_join_without_a_seam(page, samples, file_of, api):
    large = np.tile(samples(400, 500), (2, 2, 1))
    page.set_viewport_size({"width": 1400, "height": 1150})
    choose(page, named(file_of(large)))

    before, after = both(page, large.shape)
    np.testing.assert_array_equal(before, large)
    assert_close(after, pixels(api(file_of(large))))


def test_a_bright_tile_is_treated_as_the_whole_image_is(page, file_of, api):
    sky = np.random.default_rng(0).normal(200, 8, (160, 1200, 3))
    sky[:, :400] -= 170
    data = file_of(sky.clip(0, 255).astype(np.uint8))
    page.set_viewport_size({"width": 1700, "height": 740})
    choose(page, named(data))

    _, after = both(page, sky.shape)
    assert_close(after, pixels(api(data)))


def test_a_large_image_is_fitted_first_and_moves_by_keys(page, samples, file_of):
    large = np.tile(samples(400, 500), (3, 4, 1))
    arrive(page, named(file_of(large)))
    view = page.locator("#viewport")
    fitted = page.locator("#scale").inner_text()

    view.focus()
    page.keyboard.press("1")
    settle(page)
    split(page, 100)
    first = seen(page)
    view.focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    moved = seen(page)

    assert fitted.endswith(" %")
    assert int(fitted[:-2]) < 100
    assert page.locator("#scale").inner_text() == "100 %"
    np.testing.assert_array_equal(moved[:, :-64], first[:, 64:])


def test_an_outdated_response_is_dropped(page, file, noisy, api, monkeypatch):
    choose(page, named(file))
    real = stages.TiledDenoiser

    def slow(*args, **how):
        time.sleep(0.3)
        return real(*args, **how)

    monkeypatch.setattr(stages, "TiledDenoiser", slow)
    models = page.get_by_label("Model")
    models.select_option("scans")
    page.wait_for_timeout(200)
    models.select_option("photo")
    settle(page)
    page.wait_for_timeout(600)

    _, after = both(page, noisy.shape)
    assert_close(after, pixels(api(file, model="photo")))


def test_an_image_is_turned_by_its_orientation(page, file_of):
    lying = np.zeros((1200, 2000, 3), np.uint8)
    lying[:600, :1000, 0] = lying[600:, :, 1] = lying[:, 1000:, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(lying, "JPEG", exif=exif, quality=95, subsampling=0)
    # Without parts, the view keeps showing the small copy.
    page.route("**/preview?*crop=*", lambda route: route.abort())
    choose(page, named(data, "turned.jpg", "image/jpeg"))
    split(page, 100)
    view = seen(page)

    expect(page.locator("#facts")).to_contain_text("1200 × 2000")
    high, wide = view.shape[:2]
    corners = [
        view[row, wide // 2 + side] for row in (high // 4, 3 * high // 4) for side in (-high // 4, high // 4)
    ]
    expected = np.rot90(lying, -1)[500::1000, 300::600].reshape(4, 3)
    assert np.abs(np.array(corners).astype(int) - expected).max() < 8
