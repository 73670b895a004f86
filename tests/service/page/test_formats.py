"""Formats that the page offers for an image: those that can hold it."""

import io

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.browser import choose, download, named, settle

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect

ALL = ["same", "png", "jpeg", "webp", "tiff", "avif"]
WITH_ALPHA = ["same", "png", "webp", "tiff", "avif"]


def encoded(kind, *frames, **options):
    data = io.BytesIO()
    frames[0].save(
        data, kind, **options, **({"save_all": True, "append_images": frames[1:]} if frames[1:] else {})
    )
    return data.getvalue()


@pytest.fixture(scope="module")
def opaque(samples):
    return Image.fromarray(samples(60, 90))


@pytest.fixture(scope="module")
def clear(samples):
    """Half transparent."""
    image = Image.fromarray(samples(60, 90)).convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.uint8([0, 255]), (60, 45))))
    return image


@pytest.fixture
def files(opaque, clear):
    palette = opaque.quantize(16)
    return {
        "opaque.jpg": (encoded("JPEG", opaque), ALL),
        "opaque.png": (encoded("PNG", opaque), ALL),
        "clear.png": (encoded("PNG", clear), WITH_ALPHA),
        # The format has transparency, even if no pixel uses it.
        "solid.png": (encoded("PNG", opaque.convert("RGBA")), WITH_ALPHA),
        "palette.png": (encoded("PNG", palette, transparency=0), WITH_ALPHA),
        "clear.webp": (encoded("WEBP", clear, lossless=True), WITH_ALPHA),
        "lossy.webp": (encoded("WEBP", clear), WITH_ALPHA),
        "opaque.webp": (encoded("WEBP", opaque), ALL),
        "clear.tif": (encoded("TIFF", clear), WITH_ALPHA),
        "opaque.tif": (encoded("TIFF", opaque), ALL),
        "book.tif": (encoded("TIFF", opaque, opaque), ["same", "tiff"]),
        "film.png": (encoded("PNG", opaque, opaque.rotate(180), duration=50), WITH_ALPHA),
        "film.gif": (
            encoded("GIF", opaque, opaque.rotate(180), duration=50, loop=0),
            ["png", "webp", "tiff", "avif"],
        ),
        "opaque.gif": (encoded("GIF", opaque), ["png", "jpeg", "webp", "tiff", "avif"]),
        "opaque.bmp": (encoded("BMP", opaque), ["png", "jpeg", "webp", "tiff", "avif"]),
        "opaque.avif": (encoded("AVIF", opaque), ALL),
        "clear.avif": (encoded("AVIF", clear), WITH_ALPHA),
    }


def offered(page):
    return page.locator("#format option:not([hidden])").evaluate_all("all => all.map((e) => e.value)")


def test_formats_that_would_fail_are_not_offered(page, files, address):
    choose(page, *(named(data, name, "") for name, (data, _) in files.items()))
    found = {}
    for name in files:
        page.locator(".item", has_text=name).click()
        expect(page.get_by_role("heading", name=name)).to_be_visible()
        settle(page)
        found[name] = offered(page)

    assert found == {name: formats for name, (_, formats) in files.items()}
    # The service agrees.
    with httpx.Client(base_url=address, timeout=60) as client:
        for name, (data, formats) in files.items():
            for kind in ALL:
                answer = client.post("denoise", content=data, params={"format": kind})
                assert (answer.status_code == 200) == (kind in formats), (name, kind, answer.text[:200])


def test_the_wanted_format_returns_with_an_image_that_can_have_it(page, files, api):
    choose(page, *(named(files[name][0], name, "") for name in ("opaque.png", "clear.png")))
    chosen = page.get_by_label("Format", exact=True)
    chosen.select_option("jpeg")
    expect(page.get_by_label("Quality")).to_be_visible()
    page.locator(".item", has_text="clear.png").click()
    settle(page)
    expect(chosen).to_have_value("same")
    expect(page.get_by_label("Quality")).to_be_hidden()
    clear = download(page)
    page.locator(".item", has_text="opaque.png").click()
    settle(page)

    expect(chosen).to_have_value("jpeg")
    assert clear == ("clear-denoised.png", api(files["clear.png"][0]))


def test_one_page_of_a_document_can_have_any_format(page, files):
    choose(page, named(files["book.tif"][0], "book.tif", ""))
    page.get_by_label("Page", exact=True).fill("2")
    page.get_by_label("Page", exact=True).blur()
    settle(page)

    assert offered(page) == ALL


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_pages_of_every_kind_of_tiff_are_counted(endian, big, page):
    tifffile = pytest.importorskip("tifffile")
    data = io.BytesIO()
    stack = np.random.default_rng(0).integers(0, 9, (3, 64, 64)).astype(np.uint16)
    with tifffile.TiffWriter(data, byteorder=endian, bigtiff=big) as tiff:
        tiff.write(stack[0], subfiletype=1)
        tiff.write(stack[1])
        tiff.write(stack[2], extrasamples=None)
    script = """(bytes) => import('./page/kinds.js').then(
        ({ describe }) => describe(new File([new Uint8Array(bytes)], 'a')))"""

    assert page.evaluate(script, list(data.getvalue())) == {
        "format": "tiff", "transparent": False, "several": "pages",
    }  # fmt: skip
    with tifffile.TiffWriter(data := io.BytesIO(), byteorder=endian, bigtiff=big) as tiff:
        tiff.write(stack[0])
        tiff.write(stack[1], subfiletype=1)
    assert page.evaluate(script, list(data.getvalue()))["several"] == ""


def test_a_file_keeps_its_format_and_jpeg_its_quality(page, opaque, api):
    files = {
        "photo.jpg": encoded("JPEG", opaque, quality=83),
        "scan.tif": encoded("TIFF", opaque),
        "drawing.bmp": encoded("BMP", opaque),
    }
    choose(page, *(named(data, name, "") for name, data in files.items()))
    saved, curl = {}, {}
    for name in files:
        page.locator(".item", has_text=name).click()
        expect(page.get_by_role("heading", name=name)).to_be_visible()
        settle(page)
        curl[name] = page.locator("#curl").inner_text()
        saved.update([download(page)])

    assert saved == {
        "photo-denoised.jpg": api(files["photo.jpg"], format="jpeg", quality=83),
        "scan-denoised.tiff": api(files["scan.tif"], format="tiff"),
        "drawing-denoised.png": api(files["drawing.bmp"]),
    }
    assert [curl[name].rpartition(" ")[2] for name in files] == ["clean.jpg", "clean.tiff", "clean.png"]
    page.locator(".item", has_text="photo.jpg").click()
    expect(page.get_by_label("Format", exact=True).locator("option:checked")).to_have_text("same: JPEG")
    expect(page.get_by_label("Quality").locator("option:checked")).to_have_text("same: 83")


def test_the_quality_of_a_jpeg_file_is_known(page, opaque):
    script = """(files) => import('./page/jpeg.js').then(({ jpegQuality }) =>
        Promise.all(files.map((bytes) => jpegQuality(new File([new Uint8Array(bytes)], 'a')))))"""
    qualities = [5, 30, 49, 50, 75, 92, 95, 100]
    icc = bytes(70_000)
    files = [encoded("JPEG", opaque, quality=quality, icc_profile=icc) for quality in qualities]

    found = page.evaluate(script, [list(data) for data in (*files, files[0][:600], b"\xff\xd8", b"")])

    assert found == [*qualities, None, None, None]
