"""Many files on the page: one zip of all, broken files, folders."""

import io
import re
import zipfile

import numpy as np
import pytest

from tests.support.browser import choose, named, pixels, settle

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect


def download_all(page, count):
    """The zip's name, and its files by name."""
    with page.expect_download() as expected:
        page.get_by_role("button", name=f"Download all {count}").click()
    archive = zipfile.ZipFile(expected.value.path())
    assert archive.testzip() is None
    return expected.value.suggested_filename, {each: archive.read(each) for each in archive.namelist()}


def test_all_images_are_saved_in_one_zip(page, file, file_of, samples, api):
    other = file_of(samples(64, 80))
    choose(page, named(file, "a.png"), named(other, "b.png"), named(file, "Ä b.png"))
    name, members = download_all(page, 3)
    expect(page.locator("#status")).to_have_text("All 3 images are saved in denoised.zip.")

    assert name == "denoised.zip"
    assert members == {
        "a-denoised.png": api(file),
        "b-denoised.png": api(other),
        "Ä b-denoised.png": api(file),
    }
    assert page.get_by_role("radio", name="a.png, saved", exact=True).count() == 1


def test_equal_names_get_numbers_in_the_zip(page, file, file_of, samples, api):
    other = file_of(samples(64, 80))
    choose(page, named(file, "a.png"), named(other, "A.png"), named(file, "a.jpg"))
    _, members = download_all(page, 3)

    assert members == {
        "a-denoised.png": api(file),
        "A-denoised-2.png": api(other),
        "a-denoised-3.png": api(file),
    }


def test_an_image_that_fails_is_named_and_the_others_are_saved(page, file, samples, file_of, api):
    choose(page, named(file, "a.png"), named(file_of(samples(60, 90)), "b.png"))
    answers = iter(
        (lambda route: route.continue_(), lambda route: route.fulfill(status=422, json={"detail": "No."}))
    )
    page.route(re.compile("/denoise"), lambda route: next(answers)(route))
    _, members = download_all(page, 2)
    expect(page.locator("#status")).to_contain_text("1 of 2 saved in denoised.zip, 1 failed. b.png: ")

    assert members == {"a-denoised.png": api(file)}
    assert page.get_by_role("radio", name="b.png, failed", exact=True).count() == 1


def test_a_download_of_all_uses_what_was_computed_before(page, file, api):
    choose(page, named(file, "a.png"), named(file, "b.png"))
    with page.expect_download():
        page.get_by_role("button", name="Download", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Saved: ")
    asked = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    _, members = download_all(page, 2)

    assert list(members) == ["a-denoised.png", "b-denoised.png"]
    assert [path for path in asked if path.startswith("denoise")] == ["denoise?output=clean"]


def test_a_large_set_is_saved_in_several_zips(page, file):
    page.route("**/page/saving.js", lambda route: route.fulfill(
        body=route.fetch().text().replace("files: 60_000", "files: 2"), content_type="text/javascript"
    ))  # fmt: skip
    page.reload()
    choose(page, *(named(file, f"{name}.png") for name in "abc"))
    saved = []
    page.on("download", lambda each: saved.append(each))
    with page.expect_event("download", lambda _: len(saved) == 2):
        page.get_by_role("button", name="Download all 3").click()

    expect(page.locator("#status")).to_contain_text("saved in denoised-1.zip, denoised-2.zip.")
    names = [zipfile.ZipFile(each.path()).namelist() for each in saved]
    assert names == [["a-denoised.png", "b-denoised.png"], ["c-denoised.png"]]


def test_broken_files_are_neither_counted_nor_shown_first(page, file):
    choose(page, named(b"no image", "notes.txt"), named(file, "a.png"), named(file[:300], "cut.png"))
    expect(page.get_by_role("heading", name="a.png")).to_be_visible()
    page.get_by_role("radio", name="cut.png, failed").wait_for(state="attached")

    expect(page.locator("#status")).to_contain_text("1 of 3 images added. notes.txt: This is not an image")
    expect(page.get_by_role("radio", name="a.png")).to_be_checked()
    expect(page.get_by_role("radio", name="notes.txt, failed")).to_have_count(1)
    expect(page.locator("#download-all")).to_be_hidden()


def test_if_all_files_are_broken_the_error_stays(page):
    page.set_input_files("#file", [named(b"no image", "a.txt"), named(b"nor this", "b.txt")])

    expect(page.get_by_text("This image cannot be shown.")).to_be_visible()
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_disabled()
    error = 'b.txt: This is not an image: 8 bytes that begin with "nor this".'
    expect(page.locator("#status")).to_contain_text(error)


@pytest.fixture
def folder(tmp_path, file):
    root = tmp_path / "trip"
    (root / "day 2").mkdir(parents=True)
    (root / ".cache").mkdir()
    for name in ("10.png", "9.png", "day 2/9.png", ".hidden.png", ".cache/thumb.png"):
        (root / name).write_bytes(file)
    (root / "notes.txt").write_text("no image")
    return root


def choose_folder(page, folder):
    page.set_input_files("#folder", folder)


def drop_folder(page, folder):
    cdp = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        cdp.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})


@pytest.mark.parametrize("way", [choose_folder, drop_folder])
def test_the_images_of_a_folder_are_added_with_their_paths(way, page, folder, file, api):
    way(page, folder)
    expect(page.locator("#status")).to_have_text("3 images added. 1 other file was left out.")
    settle(page)
    _, members = download_all(page, 3)

    names = ["trip/9-denoised.png", "trip/10-denoised.png", "trip/day 2/9-denoised.png"]
    assert list(members) == names
    assert set(members.values()) == {api(file)}


def test_a_folder_without_images_is_told(page, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("no image")
    choose_folder(page, tmp_path / "letters")

    expect(page.locator("#status")).to_have_text("No image found: the only file in the folder is none.")


def test_a_file_that_only_the_service_decodes_gets_a_thumbnail_later(page, file, file_of, samples):
    grey = file_of(samples(60, 90, 1)[..., 0].astype(np.uint16) * 257, "TIFF")
    asked = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    choose(page, named(file, "a.png"), named(grey, "scan.tif", "image/tiff"))

    sent = [path for path in asked if path.startswith("preview") and "view=" not in path]
    page.locator(".item", has_text="scan.tif").click()
    settle(page)
    then = [path for path in asked if path.startswith("preview") and "view=" not in path]
    assert (len(sent), len(then)) == (1, 2)
    assert pixels(io.BytesIO(grey).getvalue()).shape[:2] == (60, 90)
