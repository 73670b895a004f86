"""API keys on the page, and a server that cannot be reached."""

import numpy as np
import pytest

from service.auth.api_keys import add_key, revoke_key
from tests.support.browser import assert_close, both, choose, download, named, pixels, served, settle

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect


def test_a_required_key_is_asked_for_and_kept_in_this_tab_only(visit, settings, file, noisy, tmp_path):
    secret = add_key(tmp_path / "keys", "web")
    with served(settings.model_copy(update={"keys_file": tmp_path / "keys"})) as at:
        page = visit(at=at, ready="#entry:not([hidden])")
        status, key, curl = (
            page.locator("#status"),
            page.get_by_label("API key", exact=True),
            page.locator("#curl"),
        )
        expect(status).to_have_text("The server requires an API key.")
        expect(key).to_be_focused()
        assert "Authorization" not in curl.inner_text()
        key.fill("no-key-of-theirs")
        key.press("Enter")
        expect(status).to_have_text("The server does not accept this key.")
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

        expect(page.locator("#entry")).to_be_hidden()
        expect(other.locator("#entry")).to_be_visible()
        expect(curl).to_contain_text('-H "Authorization: Bearer $KEY"')
        np.testing.assert_array_equal(before, noisy)
        assert_close(after, pixels(saved))
        assert secret not in page.content()
        assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]


def test_a_revoked_key_is_asked_for_again_and_the_image_stays(visit, settings, file, tmp_path):
    keys = tmp_path / "keys"
    first, second = add_key(keys, "first"), add_key(keys, "second")
    with served(settings.model_copy(update={"keys_file": keys})) as at:
        page = visit(at=at, ready="#entry:not([hidden])")
        key, status = page.get_by_label("API key", exact=True), page.locator("#status")
        key.fill(first)
        key.press("Enter")
        choose(page, named(file))
        revoke_key(keys, "first")
        page.get_by_role("button", name="Download", exact=True).click()
        expect(status).to_contain_text("The server does not accept this key.")
        key.fill(second)
        key.press("Enter")
        settle(page)

        assert download(page)[0] == "noisy-denoised.png"


def test_no_key_is_asked_for_where_none_is_required(page):
    expect(page.get_by_label("API key", exact=True)).to_be_hidden()


def test_an_unreachable_server_is_reported(page, file):
    choose(page, named(file))
    for route in ("denoise", "preview"):
        page.route(f"**/{route}*", lambda each: each.abort())

    page.get_by_label("Model").select_option("scans")
    expect(page.locator("#status")).to_have_text("The server cannot be reached, or the connection was lost.")
    page.get_by_role("button", name="Download", exact=True).click()
    expect(page.locator("#status")).to_have_text(
        "noisy.png: The server cannot be reached, or the connection was lost."
    )
