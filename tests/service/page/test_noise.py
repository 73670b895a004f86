"""The page: the plot of the noise by brightness, the steps of the service, and drawings."""

import io
import re

import httpx2 as httpx
import numpy as np
import pytest
import tifffile

from tests.support.browser import assert_close, both, choose, download, named, pixels, settle

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect

GAIN = 40
PEDESTAL = 1000


@pytest.fixture(scope="module")
def photons():
    """A smooth image with photon noise, uint16 (200, 300)."""
    y, x = np.mgrid[:200, :300]
    scene = 300 + 20_000 * (0.5 + 0.45 * np.sin(x / 40) * np.cos(y / 35))
    rng = np.random.default_rng(0)
    noisy = PEDESTAL + GAIN * rng.poisson(scene / GAIN) + rng.normal(0, 90, scene.shape)
    return noisy.clip(0, 65535).astype(np.uint16)


@pytest.fixture(scope="module")
def drawing():
    """A drawing in four colours, uint8 (160, 240, 3)."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (4, 3))
    return colours[rng.integers(0, 4, (20, 30))].repeat(8, 0).repeat(8, 1).astype(np.uint8)


def circles(plot):
    """The plot's points, (N, 2)."""
    return np.array(
        plot.locator("circle").evaluate_all(
            "all => all.map((e) => [+e.getAttribute('cx'), +e.getAttribute('cy')])"
        )
    )


def curves(plot):
    """The plot's curves, each (N, 2)."""
    lines = plot.locator("polyline").evaluate_all("all => all.map((e) => e.getAttribute('points'))")
    return [np.array([point.split(",") for point in line.split()], float) for line in lines]


def test_the_plot_shows_photon_noise_in_the_files_units(page, photons, file_of, address):
    data = file_of(photons, "TIFF")
    choose(page, named(data, "cells.tif", "image/tiff"))
    found = httpx.post(f"{address}estimate", content=data).json()
    details = page.locator("#levels")
    expect(details).to_be_visible()
    plot = page.get_by_role("img", name="Noise by brightness")
    expect(plot).to_be_hidden()
    details.locator("summary").click()
    expect(plot).to_be_visible()

    points, [curve] = circles(plot), curves(plot)
    assert len(points) == len(found["levels"]) > 4
    np.testing.assert_allclose(points[:, 1], np.interp(points[:, 0], curve[:, 0], curve[:, 1]), atol=8)
    assert (np.diff(curve[:, 1]) <= 0).all()
    gain = float(re.search(r"gain ([\d.]+), pedestal", plot.get_attribute("aria-label"))[1])
    assert gain == pytest.approx(found["laws"][0]["gain"], rel=0.01)
    assert {"5,000", "10,000", "15,000", "20,000"} <= set(plot.locator("text").all_text_contents())
    expect(page.locator("#plot-caption")).to_contain_text("where white is 65,535.")
    expect(page.locator("#plot-caption")).to_contain_text(f"{100 * found['sigma_of_range']:.2g}\u00a0% of")


def test_colour_has_a_curve_for_each_channel(page, photons, file_of):
    colour = np.stack([photons, photons[::-1], photons[:, ::-1]], 2)
    data = io.BytesIO()
    tifffile.imwrite(data, colour, photometric="rgb")
    choose(page, named(data.getvalue(), "cells.tif", "image/tiff"))
    page.get_by_text("Noise by brightness").click()

    expect(page.locator("#plot polyline")).to_have_count(3)
    expect(
        page.get_by_role("img", name=re.compile("Photon noise of red: .* of green: .* of blue: "))
    ).to_be_visible()


def test_the_plot_of_a_photograph_has_no_curve(page, file_of):
    noise = np.random.default_rng(0).normal(128, 20, (200, 300, 3))
    choose(page, named(file_of(noise.clip(0, 255).astype(np.uint8))))
    page.get_by_text("Noise by brightness").click()
    plot = page.get_by_role("img", name=re.compile(r"^Noise by brightness, in the file's units: (19|20|21)"))

    expect(plot).to_be_visible()
    assert plot.locator("circle").count() >= 1
    assert plot.locator("polyline").count() == 0
    expect(page.locator("#plot-caption")).to_contain_text("where white is 255. On average ")


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 970, [0, 200, 400, 600, 800]),
    (-0.968, -0.671, [-0.9, -0.8, -0.7]),
    (0, 255, [0, 100, 200]),
    (10_000, 10_004, [10_000, 10_001, 10_002, 10_003, 10_004]),
])  # fmt: skip
def test_ticks_are_few_and_round(low, high, expected, page):
    script = (
        "([low, high]) => import('./page/plot.js').then(({ ticks }) => ticks(low, high, high === 970 ? 5 : 4))"
    )

    assert page.evaluate(script, [low, high]) == expected


@pytest.mark.parametrize("shape", [(9, 30, 3), (60, 90, 3)])
def test_without_levels_there_is_no_plot(shape, page, file_of):
    choose(page, named(file_of(np.full(shape, 7, np.uint8))))

    expect(page.locator("#noise")).not_to_be_empty()
    expect(page.locator("#levels")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 1400])
def test_the_open_plot_fits_the_screen(width, visit, photons, file_of):
    page = visit(viewport={"width": width, "height": 740}, color_scheme="dark")
    choose(page, named(file_of(photons, "TIFF"), "cells.tif", "image/tiff"))
    page.get_by_text("Noise by brightness").click()

    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    box = page.locator("#plot svg").bounding_box()
    for text in page.locator("#plot text").all():
        inner = text.bounding_box()
        assert box["x"] - 1 <= inner["x"]
        assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 1


@pytest.mark.parametrize(("depth", "kind", "unit"), [
    (16, "PNG", "counts"),
    (16, "TIFF", "counts"),
    (32, "TIFF", "% of the image's range"),
    (8, "TIFF", "of 255"),
    (8, "PNG", "of 255"),
])  # fmt: skip
def test_the_noise_is_told_in_the_units_of_the_file(depth, kind, unit, page, photons, file_of):
    samples = {8: (photons >> 8).astype(np.uint8), 16: photons, 32: photons.astype(np.float32) / 65535 - 1}
    choose(page, named(file_of(samples[depth], kind), f"cells.{kind.lower()}", f"image/{kind.lower()}"))

    expect(page.locator("#noise")).to_contain_text(unit)


def test_the_steps_of_the_service_are_shown(page, photons, file_of):
    choose(page, named(file_of(photons), "cells.png"))
    download(page)

    expect(page.locator("#status")).to_contain_text(
        re.compile(r" s; photon noise made even \(gain [\d.]+, read noise")
    )


def test_a_drawing_is_shown_and_saved_unchanged(page, drawing, file_of, api):
    tiles = []
    page.on("request", lambda request: "/denoise" in request.url and tiles.append(request.url))
    data = file_of(drawing)
    choose(page, named(data, "art.png"))
    expect(page.locator("#noise")).to_have_text(re.compile("^No noise: .* It is saved unchanged.$"))
    _, after = both(page, drawing.shape)
    asked = list(tiles)
    _, saved = download(page)

    np.testing.assert_array_equal(after, drawing)
    np.testing.assert_array_equal(pixels(saved), drawing)
    assert saved == api(data)
    assert asked == []
    expect(page.locator("#status")).to_have_text(
        "Saved: art-denoised.png, unchanged: a drawing in few colours is certainly clean"
    )


def test_a_drawing_can_be_denoised_anyway(page, drawing, file, file_of, api):
    data = file_of(drawing)
    choose(page, named(file), named(data, "art.png"))
    anyway, curl = page.get_by_label("Denoise it anyway"), page.locator("#curl")
    expect(anyway).to_be_hidden()
    page.locator(".item", has_text="art.png").click()
    settle(page)
    anyway.check()
    settle(page)
    _, after = both(page, drawing.shape)
    expect(curl).to_contain_text("force=true")
    _, forced = download(page)
    expect(page.locator("#status")).to_contain_text("denoised by ")
    page.locator(".item", has_text="noisy.png").click()
    settle(page)
    expect(anyway).to_be_hidden()
    expect(curl).not_to_contain_text("force")
    _, other = download(page)
    page.locator(".item", has_text="art.png").click()
    settle(page)
    expect(anyway).to_be_checked()
    anyway.uncheck()
    settle(page)
    _, last = both(page, drawing.shape)

    assert forced == api(data, force=True) != api(data)
    assert_close(after, pixels(forced))
    assert other == api(file)
    np.testing.assert_array_equal(last, drawing)


def test_the_download_corrects_what_was_taken_for_a_drawing(page, file, noisy, api):
    drawn = {"words": "No noise.", "models": {}, "sigma": [0], "levels": [], "laws": [], "range": [0, 255]}
    page.route("**/estimate*", lambda route: route.fulfill(json=drawn))
    choose(page, named(file))
    _, first = both(page, noisy.shape)
    expect(page.get_by_label("Denoise it anyway")).to_be_visible()
    page.get_by_label("Model").select_option("photo")
    download(page)
    expect(page.get_by_label("Denoise it anyway")).to_be_hidden()
    settle(page)
    _, last = both(page, noisy.shape)

    np.testing.assert_array_equal(first, noisy)
    assert_close(last, pixels(api(file, model="photo")))
