"""The page: the list of models, and why one was chosen."""

import json

import httpx2 as httpx
import numpy as np
import pytest

from tests.support.browser import choose, named, served, settle

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'").expect

RECIPES = {
    "photo": {"noise": "camera"},
    "photo-gaussian": {"noise": "gaussian"},
    "photo-gaussian-large": {"noise": "gaussian"},
    "photo-grey": {"noise": "gaussian", "grey": 1.0},
    "pixels": {"noise": "random-pixel"},
}


@pytest.fixture(scope="module")
def described(settings, tmp_path_factory, save_tiny):
    """The address of a service whose weights say what they are for."""
    folder = tmp_path_factory.mktemp("described")
    for seed, (name, recipe) in enumerate(RECIPES.items()):
        save_tiny(folder / f"{name}.safetensors", seed=seed, recipe=json.dumps(recipe))
    save_tiny(folder / "own.safetensors")
    with served(settings.model_copy(update={"weights": folder})) as address:
        yield address


def test_the_list_says_what_each_model_is_for(visit, described, file):
    page = visit(at=described)
    choose(page, named(file))
    about, names = page.locator("#model-about"), page.locator("#model option")
    expect(about).to_have_text("Measures the noise, and takes the model that suits it. Usual speed.")
    expected = ["auto", "auto-large", "own", "photo", "photo-gaussian", "photo-gaussian-large", "photo-grey"]
    assert names.all_text_contents() == expected
    page.get_by_label("Model").select_option("photo-grey")
    expect(about).to_contain_text("without colour")
    page.get_by_label("Model").select_option("own")
    expect(about).to_contain_text("No description: these weights are your own.")
    page.get_by_text("What each is for").click()

    terms = page.locator("#model-list dt")
    expect(terms.first).to_have_text("auto (default)")
    assert terms.count() == page.locator("#model-list dd").count() == len(expected)
    for name in ("auto", "photo"):
        assert httpx.get(f"{described}models").json()[expected.index(name)]["use"] in page.content()


def test_the_speed_of_a_model_is_told_compared_with_the_usual(visit, described):
    def larger(route):
        models = route.fetch().json()
        sizes = {"photo-gaussian-large": 2.7, "own": 0.35}
        for model in models:
            model["parameters"] = int(1e6 * sizes.get(model["name"], 1))
        route.fulfill(json=models)

    page = visit()
    page.route("**/models", larger)
    page.goto(described)
    page.wait_for_selector("#model option", state="attached")
    words = dict(
        zip(*(page.locator(f"#model-list {tag}").all_text_contents() for tag in ("dt", "dd")), strict=True)
    )

    assert words["photo-gaussian-large"].endswith("Slow: takes 3 times as long.")
    assert words["auto-large"].endswith("Takes up to 3 times as long.")
    assert words["own"].endswith("Fast.")
    assert words["photo"].endswith("Usual speed.")


def test_a_default_that_is_not_for_photos_is_offered(visit, settings, described, tmp_path, save_tiny):
    for name in ("pixels", "other"):
        save_tiny(tmp_path / f"{name}.safetensors", recipe=json.dumps(RECIPES["pixels"]))
    with served(settings.model_copy(update={"weights": tmp_path, "model": "pixels"})) as at:
        page = visit(at=at)

        assert page.locator("#model option").all_text_contents() == ["pixels"]


@pytest.mark.parametrize(("kind", "reason"), [
    ("white", "photo-gaussian, because the noise differs from pixel to pixel, as in scans and renders."),
    ("grey", "photo-grey, because the image has no colour, and its noise differs from pixel to pixel."),
    ("camera", "photo, because neighbouring pixels share the noise, as in photos from cameras."),
    ("tiny", "photo, because the noise cannot be measured."),
])  # fmt: skip
def test_the_chosen_model_is_named_with_the_reason(kind, reason, visit, described, file_of):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 20, (200, 300, 1 if kind == "grey" else 3))
    if kind == "camera":
        noise = sum(np.roll(noise, (y, x), (0, 1)) for y in range(3) for x in range(3)) / 3
    image = (128 + noise).clip(0, 255).astype(np.uint8).squeeze()
    page = visit(at=described)
    choose(page, named(file_of(image[:8, :8] if kind == "tiny" else image)))

    expect(page.locator("#noise")).to_contain_text(f"Model auto takes {reason}")
    page.get_by_label("Model").select_option("photo")
    settle(page)
    expect(page.locator("#noise")).not_to_contain_text("auto")
