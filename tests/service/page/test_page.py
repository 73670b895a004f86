"""The page in Chromium, with a real service: user actions, and what the page then shows."""

import base64
import io
import re
import shutil
import threading
import time
from contextlib import contextmanager
from itertools import repeat
from types import SimpleNamespace

import httpx2 as httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from service.app import create_app
from service.auth.api_keys import add_key, revoke_key
from service.runtime import pipeline
from service.settings import Settings
from tests.support.windows import Net, piece

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'"
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

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
# Error of an image that passes through a canvas and is rounded twice, of 255.
CLOSE = 1


@contextmanager
def served(settings):
    """The address of the service with these settings."""
    config = uvicorn.Config(
        create_app(settings), port=0, ws="none", log_level="error", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def usual(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("photo", "photo-gaussian", "photo-grey", "scans")):
        save_tiny(folder / f"{name}.safetensors", seed=seed)
    return Settings(weights=folder, device="cpu", precision="float32", max_pixels=MAX_PIXELS)


@pytest.fixture(scope="module")
def address(usual, tmp_path_factory):
    with served(usual.model_copy(update={"spool": tmp_path_factory.mktemp("spool")})) as address:
        yield address


@pytest.fixture(scope="module")
def api(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield lambda data, **parameters: client.post("denoise", content=data, params=parameters).content


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=FLAGS)
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


def named(data, name="noisy.png", kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": data}


def choose(page, *files):
    page.set_input_files("#file", list(files))
    settle(page)


def arrive(page, *files):
    """The same, without waiting for the preview."""
    page.set_input_files("#file", list(files))
    page.wait_for_selector("#notice", state="hidden")


def settle(page):
    page.wait_for_selector("#viewport[aria-busy=false]", state="attached")
    # The page draws with the next frame.
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def seen(page):
    """The whole view, uint8 (H, W, 3)."""
    address = page.evaluate("document.getElementById('canvas').toDataURL()")
    return pixels(base64.b64decode(address.split(",")[1]))


def middle(view, shape):
    """The middle of the view, where a small image is shown whole."""
    top, left = round((view.shape[0] - shape[0]) / 2), round((view.shape[1] - shape[1]) / 2)
    return view[top : top + shape[0], left : left + shape[1]]


def split(page, percent):
    page.locator("#split").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", percent
    )
    settle(page)


def where(view, image):
    """The part of an image that fills the view at its actual size, near the middle of both."""
    (high, wide), (height, width) = view.shape[:2], image.shape[:2]
    for top in range((height - high) // 2 - 1, (height - high) // 2 + 3):
        for left in range((width - wide) // 2 - 1, (width - wide) // 2 + 3):
            part = (slice(top, top + high), slice(left, left + wide))
            if np.array_equal(view, image[part]):
                return part
    raise AssertionError("the view does not show the middle of the image")


def both(page, shape):
    """The image before and after, as the view shows them."""
    sides = []
    for percent in (100, 0):
        split(page, percent)
        sides.append(middle(seen(page), shape))
    return sides


def assert_close(one, other):
    assert np.abs(one.astype(int) - other.astype(int)).max() <= CLOSE


def set_range(page, name, percent):
    page.get_by_role("slider", name=name, exact=True).fill(str(percent))
    settle(page)


def download(page, name="Download"):
    with page.expect_download() as expected:
        page.get_by_role("button", name=name, exact=True).click()
    return expected.value.suggested_filename, expected.value.path().read_bytes()


TRANSFER = """([base64, name, type]) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    return transfer;
}"""


def transfer(page, data):
    return page.evaluate_handle(TRANSFER, [base64.b64encode(data).decode(), "noisy.png", "image/png"])


def by_choice(page, data):
    page.set_input_files("#file", named(data))


def by_drop(page, data):
    page.dispatch_event("body", "drop", {"dataTransfer": transfer(page, data)})


def by_paste(page, data):
    paste = "(data) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))"
    page.evaluate(paste, transfer(page, data))


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

    playwright.expect(page.locator("#status")).to_contain_text("No file found.")


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


@pytest.mark.parametrize(
    "settings",
    [{"Strength": 40}, {"Luminance": 0}, {"Colour": 0}, {"Strength": 70, "Luminance": 20, "Colour": 90}],
)
def test_sliders_change_the_view_and_the_download_alike(settings, page, file, noisy, api):
    names = {"Strength": "strength", "Luminance": "luma", "Colour": "chroma"}
    parameters = {names[name]: percent / 100 for name, percent in settings.items()}

    choose(page, named(file))
    for name, percent in settings.items():
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


@pytest.mark.parametrize("dimmed", [1, 16])
def test_removed_noise_is_shown_on_grey_and_amplified(dimmed, page, noisy, file_of, api):
    dim = noisy // dimmed
    choose(page, named(file_of(dim)))
    page.get_by_role("radio", name="Removed").check()
    settle(page)
    told = re.fullmatch(r"removed(?:, amplified (\d+) times)?", page.locator("#tag-removed").inner_text())
    gain = int(told[1] or 1)

    removed = dim.astype(int) - pixels(api(file_of(dim)))
    view = middle(seen(page), dim.shape)
    assert (gain > 1) == (dimmed > 1)
    assert np.abs(view - np.clip(128 + gain * removed, 0, 255)).max() <= gain * CLOSE
    assert removed.any()


def test_another_model_changes_the_view_and_the_download(page, file, noisy, api):
    choose(page, named(file))
    playwright.expect(page.locator("#noise")).to_contain_text("Model: ")
    page.get_by_label("Model").select_option("scans")
    playwright.expect(page.locator("#noise")).not_to_contain_text("Model: ")
    settle(page)
    _, after = both(page, noisy.shape)
    _, saved = download(page)

    assert_close(after, pixels(api(file, model="scans")))
    assert saved == api(file, model="scans")


def test_only_visible_tiles_are_sent(page, samples, file_of, monkeypatch):
    large = np.tile(samples(400, 500), (3, 4, 1))
    shapes, real = [], pipeline.Denoising

    def noted(net, image, *args, finish, **how):
        # Without strength, the page only reads the image.
        if finish.strength:
            shapes.append(image.samples.shape)
        return real(net, image, *args, finish=finish, **how)

    monkeypatch.setattr(pipeline, "Denoising", noted)

    page.set_viewport_size({"width": 800, "height": 600})
    arrive(page, named(file_of(large)))
    page.get_by_role("button", name="Actual size").click()
    settle(page)

    assert shapes
    assert max(max(shape) for shape in shapes) <= 512 + 2 * 64
    assert len(shapes) < 3 * 4


def test_tiles_of_the_preview_join_without_a_seam(page, samples, file_of, api):
    large = np.tile(samples(400, 500), (2, 2, 1))
    page.set_viewport_size({"width": 1400, "height": 1150})
    choose(page, named(file_of(large)))

    before, after = both(page, large.shape)
    np.testing.assert_array_equal(before, large)
    assert_close(after, pixels(api(file_of(large))))


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


def test_a_download_has_the_services_own_bytes(page, file, api):
    choose(page, named(file, "Night at sea.jpeg"))

    assert download(page) == ("Night at sea-denoised.png", api(file))
    playwright.expect(page.locator("#status")).to_contain_text("Saved: Night at sea-denoised.png")


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


def test_all_images_are_saved_in_order_and_failures_named(page, file, api):
    saved = []
    page.on("download", lambda each: saved.append(each))
    choose(page, named(file, "a.png"), named(b"no image", "b.png"), named(file, "c.png"))

    # The browser can report a download after the page reports its end.
    with page.expect_event("download", lambda _: len(saved) == 2):
        page.get_by_role("button", name="Download all 3").click()
    status = page.locator("#status")
    playwright.expect(status).to_contain_text("2 of 3 saved, 1 failed. b.png: ")

    assert [each.suggested_filename for each in saved] == ["a-denoised.png", "c-denoised.png"]
    assert [each.path().read_bytes() for each in saved] == [api(file)] * 2
    names = ["a.png, saved", "b.png, failed", "c.png, saved"]
    assert [page.get_by_role("radio", name=name, exact=True).count() for name in names] == [1, 1, 1]


def test_arrow_keys_select_images_and_a_button_removes_them(page, file, file_of, samples):
    choose(page, named(file, "a.png"), named(file_of(samples(64, 80)), "b.png"))
    page.get_by_role("radio", name="a.png").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    playwright.expect(page.get_by_role("heading", name="b.png")).to_be_visible()
    playwright.expect(page.locator("#facts")).to_contain_text("80 × 64")

    for name in ("b.png", "a.png"):
        playwright.expect(page.get_by_role("heading", name=name)).to_be_visible()
        page.get_by_role("button", name="Remove from the page").click()

    playwright.expect(page.locator("#desk")).to_be_hidden()
    playwright.expect(page.get_by_text("Drop images here")).to_be_visible()


@pytest.mark.parametrize("data", [b"no image", b"%PDF-1.7"])
def test_a_file_that_is_no_image_shows_the_services_error(data, page, address):
    choose(page, named(data, "letter.pdf"))

    error = httpx.post(f"{address}denoise", content=data).json()["detail"]
    playwright.expect(page.locator("#status")).to_have_text(f"letter.pdf: {error}")
    playwright.expect(page.get_by_text("This image cannot be shown.")).to_be_visible()


def test_an_image_over_the_limit_is_shown_but_not_saved(page, samples, file_of):
    arrive(page, named(file_of(np.tile(samples(310, 500), (5, 4, 1)))))
    page.get_by_role("button", name="Download", exact=True).click()

    playwright.expect(page.locator("#status")).to_contain_text("3100000 pixels")


def test_work_can_be_cancelled_and_the_service_stops(page, file, monkeypatch):
    choose(page, named(file))
    begun, ended = threading.Event(), threading.Event()

    def windows():
        begun.set()
        try:
            yield from repeat(piece(Net()))
        finally:
            ended.set()

    monkeypatch.setattr(pipeline, "Denoising", lambda *args, **how: SimpleNamespace(pieces=windows()))
    page.get_by_role("button", name="Download", exact=True).click()
    playwright.expect(page.get_by_role("progressbar", name="Denoising")).to_be_visible()
    assert begun.wait(20)
    page.get_by_role("button", name="Cancel").click()

    playwright.expect(page.locator("#status")).to_have_text("Cancelled.")
    playwright.expect(page.locator("#work")).to_be_hidden()
    assert ended.wait(20)


def test_an_outdated_response_is_dropped(page, file, noisy, api, monkeypatch):
    choose(page, named(file))
    real = pipeline.Denoising

    def slow(*args, **how):
        time.sleep(0.3)
        return real(*args, **how)

    monkeypatch.setattr(pipeline, "Denoising", slow)
    models = page.get_by_label("Model")
    models.select_option("scans")
    page.wait_for_timeout(200)
    models.select_option("photo")
    settle(page)
    page.wait_for_timeout(600)

    _, after = both(page, noisy.shape)
    assert_close(after, pixels(api(file, model="photo")))


def test_an_unreachable_server_is_reported(page, file):
    choose(page, named(file))
    page.route("**/denoise*", lambda route: route.abort())

    page.get_by_label("Model").select_option("scans")
    playwright.expect(page.locator("#status")).to_have_text(
        "The server cannot be reached, or the connection was lost."
    )
    page.get_by_role("button", name="Download", exact=True).click()
    playwright.expect(page.locator("#status")).to_have_text(
        "noisy.png: The server cannot be reached, or the connection was lost."
    )


def test_a_required_key_is_asked_for_and_kept_in_this_tab_only(visit, usual, file, noisy, tmp_path):
    secret = add_key(tmp_path / "keys", "web")
    with served(usual.model_copy(update={"keys_file": tmp_path / "keys"})) as at:
        page = visit(at=at, ready="#entry:not([hidden])")
        status, key, curl = (
            page.locator("#status"),
            page.get_by_label("API key", exact=True),
            page.locator("#curl"),
        )
        playwright.expect(status).to_have_text("The server requires an API key.")
        playwright.expect(key).to_be_focused()
        assert "Authorization" not in curl.inner_text()
        key.fill("no-key-of-theirs")
        key.press("Enter")
        playwright.expect(status).to_have_text("The server does not accept this key.")
        key.fill(secret)
        page.get_by_role("button", name="Use key").click()
        page.wait_for_selector("#model option", state="attached")
        choose(page, named(file))
        before, after = both(page, noisy.shape)
        _, saved = download(page)
        page.reload()
        page.wait_for_selector("#model option", state="attached")
        other = page.context.new_page()
        other.goto(at)

        playwright.expect(page.locator("#entry")).to_be_hidden()
        playwright.expect(other.locator("#entry")).to_be_visible()
        playwright.expect(curl).to_contain_text('-H "Authorization: Bearer $KEY"')
        np.testing.assert_array_equal(before, noisy)
        assert_close(after, pixels(saved))
        assert secret not in page.content()
        assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]


def test_a_revoked_key_is_asked_for_again_and_the_image_stays(visit, usual, file, tmp_path):
    keys = tmp_path / "keys"
    first, second = add_key(keys, "first"), add_key(keys, "second")
    with served(usual.model_copy(update={"keys_file": keys})) as at:
        page = visit(at=at, ready="#entry:not([hidden])")
        key, status = page.get_by_label("API key", exact=True), page.locator("#status")
        key.fill(first)
        key.press("Enter")
        choose(page, named(file))
        revoke_key(keys, "first")
        page.get_by_role("button", name="Download", exact=True).click()
        playwright.expect(status).to_contain_text("The server does not accept this key.")
        key.fill(second)
        key.press("Enter")
        settle(page)

        assert download(page)[0] == "noisy-denoised.png"


def test_no_key_is_asked_for_where_none_is_required(page):
    playwright.expect(page.get_by_label("API key", exact=True)).to_be_hidden()


def test_the_estimated_noise_and_its_model_are_shown(page, file_of):
    noise = np.random.default_rng(0).normal(128, 20, (200, 300, 3))
    choose(page, named(file_of(noise.clip(0, 255).astype(np.uint8))))

    playwright.expect(page.locator("#noise")).to_have_text(
        re.compile(r"\b(19|20|21)\.\d\b.* Model: photo-gaussian$")
    )


def test_a_jpeg_file_is_recognised(page, file_of, samples):
    choose(page, named(file_of(samples(304, 400), "JPEG", quality=85), "photo.jpg", "image/jpeg"))

    playwright.expect(page.locator("#noise")).to_have_text(re.compile("JPEG.* Model: "))


def test_without_a_choice_the_noise_is_shown_alone(page, file):
    page.route("**/estimate", lambda route: route.fulfill(json={"words": "No noise.", "models": {}}))
    choose(page, named(file))

    playwright.expect(page.locator("#noise")).to_have_text("No noise.")


@pytest.fixture(scope="module")
def mixed(samples):
    """1,104 x 1,600 pixels, white noise in the middle and around it noise that neighbours share."""
    rng = np.random.default_rng(0)
    around = rng.normal(0, 12, (552, 800, 3)).repeat(2, 0).repeat(2, 1)
    around = sum(np.roll(around, (y, x), (0, 1)) for y in range(3) for x in range(3)) / 9
    image = 128 + around
    image[40:1064, 288:1312] = 128 + rng.normal(0, 12, (1024, 1024, 3))
    return image.clip(0, 255).astype(np.uint8)


def test_one_model_serves_all_tiles_and_the_download_corrects_it(page, mixed, file_of, api):
    data = file_of(mixed)
    arrive(page, named(data))
    noise = page.locator("#noise")
    playwright.expect(noise).to_contain_text("Model: photo-gaussian")
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
    assert_close(first, pixels(api(data, model="photo-gaussian"))[part])
    assert_close(last, pixels(saved)[part])


def test_the_service_converts_what_the_browser_cannot_decode(page, file_of, samples):
    grey = samples(60, 90, 1)[..., 0]
    choose(page, named(file_of(grey.astype(np.uint16) * 257, "TIFF"), "scan.tif", "image/tiff"))

    before, _ = both(page, (60, 90))
    np.testing.assert_array_equal(before, np.repeat(grey[..., np.newaxis], 3, 2))


def test_a_single_page_of_a_document_is_shown_and_saved(page, file_of, samples, api):
    first, second = (Image.fromarray(samples(60, 90, seed=seed)) for seed in (0, 1))
    data = file_of(first, "TIFF", save_all=True, append_images=[second])
    choose(page, named(data, "book.tif", "image/tiff"))

    page.get_by_role("button", name="Download", exact=True).click()
    playwright.expect(page.locator("#status")).to_contain_text("2 pages")
    page.get_by_label("Format", exact=True).select_option("same")
    whole = download(page)
    page.get_by_label("Page").fill("2")
    page.get_by_label("Page").blur()
    settle(page)
    before, _ = both(page, (60, 90))

    assert whole == ("book-denoised.tiff", api(data, format="same"))
    np.testing.assert_array_equal(before, np.asarray(second))
    assert download(page) == ("book-denoised.tiff", api(data, format="same", page=2))


def test_an_image_is_turned_by_its_orientation(page, file_of):
    lying = np.zeros((1600, 2000, 3), np.uint8)
    lying[:800, :1000, 0] = lying[800:, :, 1] = lying[:, 1000:, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(lying, "JPEG", exif=exif, quality=95, subsampling=0)
    # Without results, the view keeps showing the small copy.
    page.route("**/denoise*", lambda route: route.abort())
    choose(page, named(data, "turned.jpg", "image/jpeg"))
    split(page, 100)
    view = seen(page)

    playwright.expect(page.locator("#facts")).to_contain_text("1600 × 2000")
    high, wide = view.shape[:2]
    corners = [
        view[row, wide // 2 + side] for row in (high // 4, 3 * high // 4) for side in (-high // 4, high // 4)
    ]
    expected = np.rot90(lying, -1)[500::1000, 400::800].reshape(4, 3)
    assert np.abs(np.array(corners).astype(int) - expected).max() < 8


def test_every_control_has_a_name_and_takes_the_focus(page, file):
    choose(page, named(file))
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))

    wanted = "viewport split look out in fit actual file image remove model strength luma chroma output format"
    assert set(wanted.split()) | {"download"} <= set(reached)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, progress, [role]')]
            .filter((e) => !e.labels?.length && !e.textContent.trim() && !e.getAttribute('aria-label')
                && e.id !== 'status').map((e) => e.outerHTML)"""
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
