"""Steps of the tests in a browser: serve the page, add images, read what the view shows."""

import base64
import io
import threading
import time
from contextlib import contextmanager

import numpy as np
import uvicorn
from PIL import Image

from service.app import create_app

# Error of an image that passes through a canvas and is rounded twice, of 255.
CLOSE = 1
# Longest wait for a download, in milliseconds: on a busy machine, a large image takes long.
DOWNLOAD_MS = 60_000


@contextmanager
def served(settings):
    """The address of the service with these settings."""
    config = uvicorn.Config(create_app(settings), port=0, ws="none", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


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
    with page.expect_download(timeout=DOWNLOAD_MS) as expected:
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
