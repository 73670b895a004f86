"""The page: adding images, the estimated noise, errors, layout and accessibility."""

import re

import httpx2 as httpx
import numpy as np
import pytest

from tests.support.browser import assert_close, both, by_choice, by_drop, by_paste, choose, named, pixels, settle

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect


@pytest.mark.parametrize("way", [by_choice, by_drop, by_paste])
def test_an_added_image_is_shown_before_and_after(way, page, file, noisy, api):
    way(page, file)
    settle(page)

    before, after = both(page, noisy.shape)
    np.testing.assert_array_equal(before, noisy)
    assert_close(after, pixels(api(file)))
    assert not np.array_equal(before, after)


def test_dropped_text_is_an_error(page):
    page.dispatch_event("body", "drop", {"dataTransfer": page.evaluate_handle("new DataTransfer()")})

    expect(page.locator("#status")).to_contain_text("No file found.")


def test_arrow_keys_select_images_and_a_button_removes_them(page, file, file_of, samples):
    choose(page, named(file, "a.png"), named(file_of(samples(64, 80)), "b.png"))
    page.get_by_role("radio", name="a.png").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    expect(page.get_by_role("heading", name="b.png")).to_be_visible()
    expect(page.locator("#facts")).to_contain_text("80 × 64")

    for name in ("b.png", "a.png"):
        expect(page.get_by_role("heading", name=name)).to_be_visible()
        page.get_by_role("button", name="Remove from the page").click()

    expect(page.locator("#desk")).to_be_hidden()
    expect(page.get_by_text("Drop images here")).to_be_visible()


@pytest.mark.parametrize("data", [b"no image", b"%PDF-1.7"])
def test_a_file_that_is_no_image_shows_the_services_error(data, page, address):
    choose(page, named(data, "letter.pdf"))

    error = httpx.post(f"{address}denoise", content=data).json()["detail"]
    expect(page.locator("#status")).to_have_text(f"letter.pdf: {error}")
    expect(page.get_by_text("This image cannot be shown.")).to_be_visible()


def test_the_estimated_noise_and_its_model_are_shown(page, file_of):
    noise = np.random.default_rng(0).normal(128, 20, (200, 300, 3))
    choose(page, named(file_of(noise.clip(0, 255).astype(np.uint8))))

    expect(page.locator("#noise")).to_have_text(
        re.compile(
            r"\b(19|20|21)\.\d\b.* Model auto takes photo-gaussian, because the noise differs from pixel to pixel"
        )
    )


def test_a_jpeg_file_is_recognised(page, file_of, samples):
    choose(page, named(file_of(samples(304, 400), "JPEG", quality=85), "photo.jpg", "image/jpeg"))

    expect(page.locator("#noise")).to_have_text(re.compile("JPEG.* Model auto takes "))


def test_without_a_choice_the_noise_is_shown_alone(page, file):
    found = {"words": "Some noise.", "models": {}, "sigma": [1], "levels": [], "laws": [], "range": [0, 255]}
    page.route("**/estimate*", lambda route: route.fulfill(json=found))
    choose(page, named(file))

    expect(page.locator("#noise")).to_have_text("Some noise.")


def test_the_service_converts_what_the_browser_cannot_decode(page, file_of, samples):
    grey, asked = samples(60, 90, 1)[..., 0], []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    choose(page, named(file_of(grey.astype(np.uint16) * 257, "TIFF"), "scan.tif", "image/tiff"))

    before, _ = both(page, (60, 90))
    np.testing.assert_array_equal(before, np.repeat(grey[..., np.newaxis], 3, 2))
    # The file is sent once: all further requests name the view.
    sent = [path for path in asked if path.startswith("preview") and "view=" not in path]
    assert sent == ["preview?page=1&side=1600&black=auto&white=auto"]
    assert not any(path.startswith("denoise") for path in asked)


def test_every_control_has_a_name_and_takes_the_focus(page, file):
    choose(page, named(file))
    reached = []
    for _ in range(50):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))

    wanted = "viewport split look out in fit actual file folder image remove model preset output format"
    wanted += " strength luma chroma grain"
    assert set(wanted.split()) | {"download"} <= set(reached)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, progress, [role]')]
            .filter((e) => !e.labels?.length && !e.textContent.trim() && !e.getAttribute('aria-label')
                && e.role !== 'status').map((e) => e.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_the_layout_fits_the_screen_with_readable_contrast(scheme, width, visit, file):
    page = visit(viewport={"width": width, "height": 740}, color_scheme=scheme)
    for name in ("", "a-very-long-name-without-any-place-to-break-it" * 3 + ".png"):
        if name:
            choose(page, named(file, name))
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width

    style = "getComputedStyle(document.body)"
    ground, ink = (page.evaluate(f"{style}.{name}") for name in ("backgroundColor", "color"))
    dark, light = sorted(luminance(colour) for colour in (ground, ink))
    assert (light + 0.05) / (dark + 0.05) > 7
    assert (luminance(ground) < 0.1) == (scheme == "dark")


def luminance(colour):
    """Relative luminance of `rgb(r, g, b)`. Source: WCAG 2."""
    shares = np.array([int(part) for part in colour[4:-1].split(",")]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
