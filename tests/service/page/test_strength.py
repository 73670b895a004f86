"""The page: strength beyond 100 %, grain that is kept, and presets."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.browser import assert_close, both, choose, download, named, pixels, set_range, settle

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect


@pytest.fixture
def asked(page):
    """The parameters of all requests for previews."""
    given = []

    def note(request):
        url = urlsplit(request.url)
        if url.path.endswith("/preview"):
            given.append({name: value for name, [value] in parse_qs(url.query).items()})

    page.on("request", note)
    return given


def test_more_than_all_noise_is_removed_by_the_network(page, asked, file, noisy, api):
    choose(page, named(file))
    asked.clear()
    set_range(page, "Strength", 130)
    _, more = both(page, noisy.shape)
    beyond = {given.get("strength") for given in asked}
    asked.clear()
    set_range(page, "Strength", 100)
    _, usual = both(page, noisy.shape)
    usually = {given.get("strength") for given in asked}
    set_range(page, "Strength", 130)
    _, saved = download(page)

    assert (beyond, usually) == ({"1.3"}, {None})
    assert_close(more, pixels(api(file, strength=1.3)))
    assert_close(usual, pixels(api(file)))
    assert saved == api(file, strength=1.3)


def test_grain_is_put_back_in_the_view_and_the_download(page, asked, file, noisy, api):
    choose(page, named(file))
    set_range(page, "Keep grain", 40)
    _, after = both(page, noisy.shape)
    _, saved = download(page)

    assert_close(after, pixels(api(file, grain=0.4)))
    assert saved == api(file, grain=0.4)
    assert asked[-1]["grain"] == "0.4"
    expect(page.locator("#curl")).to_contain_text("grain=0.4")
    expect(page.locator("#grain-percent")).to_have_text("40 %")


def test_sliders_reach_their_limits(page, file):
    choose(page, named(file))
    limits = {"Strength": "150", "Luminance": "100", "Colour": "100", "Keep grain": "50"}

    for name, most in limits.items():
        assert page.get_by_role("slider", name=name, exact=True).get_attribute("max") == most


def test_presets_set_the_sliders_and_follow_them(page, asked, file, api):
    choose(page, named(file))
    preset = lambda name: page.get_by_role("radio", name=name, exact=True)  # noqa: E731
    expect(preset("Normal")).to_be_checked()
    preset("Gentle").check()
    settle(page)
    gentle = download(page)
    set_range(page, "Colour", 50)
    checked = [preset(name).is_checked() for name in ("Gentle", "Normal", "Strong")]
    preset("Strong").check()
    settle(page)
    strong = page.get_by_role("slider", name="Strength", exact=True).input_value()
    colour = page.get_by_role("slider", name="Colour", exact=True).input_value()
    set_range(page, "Strength", 100)
    expect(preset("Normal")).to_be_checked()

    assert gentle[1] == api(file, luma=0.6)
    assert checked == [False] * 3
    assert (strong, colour) == ("130", "100")
