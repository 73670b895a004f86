import json
from dataclasses import fields, replace

import pytest

from engine.data.noise.camera import CameraNoise
from engine.data.noise.gaussian import GaussianNoise
from engine.data.noise.random_pixel import RandomPixelNoise
from engine.data.noise.stabilised import PartlyStabilised
from engine.models.networks import AutoencoderConfig, UNetConfig
from engine.training.recipe import Recipe, read_recipe, recipe_from_dict, shipped_recipes


@pytest.fixture
def file(tmp_path):
    """file(text): a recipe's file with this in it."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


LEAST = """
network = "photo"
noise = "gaussian"
noise_range = [0, 9]
optimizer = "sgd"
lr = 1
batch = 1
patch = 8
"""


def test_every_shipped_recipe_loads():
    assert {"paper", "photo"} <= set(shipped_recipes())
    for name in shipped_recipes():
        recipe = read_recipe(name)
        assert recipe.network_config()
        assert recipe.noise_model()


def test_the_paper_recipe_is_the_reports():
    recipe = read_recipe("paper")

    assert (recipe.optimizer, recipe.batch, recipe.lr) == ("sgd", 8, 0.8)
    assert recipe.network_config() == AutoencoderConfig(256, recipe.geometry)
    assert recipe.noise_model() == RandomPixelNoise(4, 10, 1)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("photo-small", UNetConfig()),
        ("photo-gaussian", UNetConfig((48, 96, 192), (1, 1, 4, 1, 1))),
        ("photo-gaussian-large", UNetConfig((64, 128, 256), (2, 2, 6, 2, 2))),
    ],
)
def test_the_recipes_for_white_noise_differ_in_size_alone(name, spec):
    recipe, small = read_recipe(name), read_recipe("photo-small")

    assert recipe.network_config() == spec
    white = GaussianNoise(0, 55, 16, grey=0.03, rounded=0.25)
    assert recipe.noise_model() == PartlyStabilised(white, 0.35, 0.03, 16)
    assert recipe.validation_noise() == white
    assert replace(recipe, channels=small.channels, blocks=small.blocks, minutes=small.minutes) == small


def test_the_recipe_for_grey_is_that_for_colour():
    recipe, colour = read_recipe("photo-grey"), read_recipe("photo-gaussian")

    assert recipe.grey == 1
    assert recipe.lr < colour.lr
    assert replace(recipe, grey=colour.grey, lr=colour.lr, minutes=colour.minutes) == colour


@pytest.mark.parametrize(
    ("name", "white"), [("photo", "photo-gaussian"), ("photo-large", "photo-gaussian-large")]
)
def test_the_camera_recipes_differ_in_their_noise_alone(name, white):
    recipe, other = read_recipe(name), read_recipe(white)

    assert recipe.noise_model() == CameraNoise(
        low=0, high=55, target_views=16, grey=0.1, rounded=0.75, jpeg=0.6, white=0.125, raw=0.125, soft=0.65
    )
    changed = ("noise", "grey", "rounded", "white", "soft", "stabilised", "measured")
    same = {key: getattr(other, key) for key in changed}
    assert replace(recipe, **same) == other


def test_every_share_of_a_recipe_reaches_its_noise():
    shares = {"white": "0.2", "raw": "0.3", "jpeg": "0.4", "rounded": "0.5", "grey": "0.6", "soft": "0.7"}

    camera = read_recipe("photo", shares | {"noise_range": "5 30", "target_views": "2"}).noise_model()
    gaussian = read_recipe("photo-gaussian", shares | {"stabilised": "0.8"}).noise_model()

    assert camera == CameraNoise(5, 30, 2, grey=0.6, rounded=0.5, jpeg=0.4, white=0.2, raw=0.3, soft=0.7)
    assert gaussian == PartlyStabilised(GaussianNoise(0, 55, 16, grey=0.6, rounded=0.5), 0.8, 0.6, 16)


def test_a_recipe_of_ones_own_is_read_by_its_path(file):
    recipe = read_recipe(file(LEAST))

    assert recipe == Recipe("photo", "gaussian", (0, 9), "sgd", 1, 1, 8)
    assert isinstance(recipe.lr, float)


# Overrides


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("batch", "16", 16),
        ("lr", "1e-3", 0.001),
        ("optimizer", "adam", "adam"),
        ("channels", "16 32 64", (16, 32, 64)),
        ("channels", "16,32, 64", (16, 32, 64)),
        ("noise_range", "5 20.5", (5.0, 20.5)),
        ("minutes", "0.5", 0.5),
        ("steps", "100", 100),
        ("seed", "-3", -3),
        ("precision", "bfloat16", "bfloat16"),
    ],
)
def test_a_value_is_overridden_by_text(key, text, value):
    recipe = read_recipe("photo-small", {key: text})

    assert getattr(recipe, key) == value
    assert type(getattr(recipe, key)) is type(value)


def test_every_value_of_a_recipe_can_be_given_as_text():
    for name in shipped_recipes():
        recipe = read_recipe(name)
        texts = {
            field.name: " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for field in fields(Recipe)
            for value in [getattr(recipe, field.name)]
        }

        assert read_recipe(name, texts) == recipe


def test_a_recipe_comes_back_from_the_json_of_a_checkpoint():
    recipe = read_recipe("photo")

    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict())), "test") == recipe


# Refusals


def test_an_unknown_recipe_is_refused_with_those_there_are():
    there = "paper, paper-long, photo, photo-gaussian, photo-gaussian-large, photo-grey, photo-large, photo-small"

    with pytest.raises(
        ValueError, match=f"no recipe 'fast'; choose one of {there}, pixels, or give a .toml file"
    ):
        read_recipe("fast")


def test_unknown_keys_are_refused_by_name():
    with pytest.raises(ValueError, match=r"paper.toml: unknown: epochs, sigma; a recipe takes network, noise"):
        read_recipe("paper", {"sigma": "3", "epochs": "2"})


def test_an_unknown_key_in_a_file_is_refused_by_name(file):
    with pytest.raises(ValueError, match=r"mine.toml: unknown: momentum; a recipe takes"):
        read_recipe(file(LEAST + "momentum = 0.9\n"))


def test_a_missing_key_is_refused_by_name(file):
    with pytest.raises(ValueError, match=r"mine.toml: .*missing .*'network'"):
        read_recipe(file("lr = 1"))


def test_a_file_that_is_not_toml_is_refused_by_name(file):
    with pytest.raises(ValueError, match=r"mine.toml: not valid TOML: .*line 1"):
        read_recipe(file("batch 8"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("batch = 8.5", "batch takes int; got 8.5"),
        ("batch = [8]", r"batch takes int; got \[8\]"),
        ("lr = 'fast'", "lr takes float; got 'fast'"),
        ("precision = 16", "precision takes str; got 16"),
        ("blocks = 3", "blocks takes a list; got 3"),
        ("channels = ['wide', 2]", "channels takes int; got 'wide'"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(file, line, message):
    key = line.split(" ")[0]
    others = "".join(f"{text}\n" for text in LEAST.splitlines() if not text.startswith(f"{key} "))

    with pytest.raises(ValueError, match=message):
        read_recipe(file(others + line))


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("network", "unet", "network must be one of paper, photo; got 'unet'"),
        ("noise", "salt", "noise must be one of random-pixel, gaussian, camera; got 'salt'"),
        ("optimizer", "lion", "optimizer must be one of sgd, adam, muon; got 'lion'"),
        ("precision", "half", "precision must be one of auto, float32, bfloat16; got 'half'"),
        ("lr", "0", "lr must be more than 0; got 0"),
        ("lr", "nan", "lr must be more than 0; got nan"),
        ("batch", "-1", "batch must be more than 0; got -1"),
        ("batch", "many", "batch takes int; got 'many'"),
        ("minutes", "0", "minutes must be more than 0; got 0"),
        ("steps", "-1", "steps must be at least 0; got -1"),
        ("weight_decay", "-0.1", "weight_decay must be at least 0; got -0.1"),
        ("decay", "1.5", "decay must be at least 0 and at most 1; got 1.5"),
        ("average", "2", "average must be at least 0 and at most 1; got 2"),
        ("synthetic", "-0.1", "synthetic must be at least 0 and at most 1; got -0.1"),
        ("patterns", "2", "patterns must be at least 0 and at most 1; got 2"),
        ("grey", "1.1", "grey must be at least 0 and at most 1; got 1.1"),
        ("rounded", "-1", "rounded must be at least 0 and at most 1; got -1"),
        ("jpeg", "60", "jpeg must be at least 0 and at most 1; got 60"),
        ("white", "2", "white must be at least 0 and at most 1; got 2"),
        ("raw", "0.9", "white and raw must add up to 1 at most; got 0.25 and 0.9"),
        ("stabilised", "-1", "stabilised must be at least 0 and at most 1; got -1"),
        ("measured", "2", "measured must be at least 0 and at most 1; got 2"),
        ("measured", "0.97", "patterns and measured must add up to 1 at most; got 0.04 and 0.97"),
        ("zoom", "0", r"zoom must be at least 0.1 and at most 1; got 0"),
        ("noise_range", "3", "noise_range takes 2 values; got '3'"),
        (
            "noise_range",
            "3 2",
            "noise_range takes the lowest level, at least 0, and the highest; got 3 and 2",
        ),
        (
            "noise_range",
            "-1 2",
            "noise_range takes the lowest level, at least 0, and the highest; got -1 and 2",
        ),
        ("channels", "", "0 levels of channels"),
        ("blocks", "1 2", "3 levels of channels take 5 numbers of blocks; got 2"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(key, text, message):
    with pytest.raises(ValueError, match=message):
        read_recipe("photo-small", {key: text})


@pytest.mark.parametrize("text", ["0 4", "2.5 4", "2 4.5"])
def test_blocks_of_random_pixels_have_whole_sides(text):
    with pytest.raises(ValueError, match="noise_range of random-pixel noise takes whole numbers of at least 1"):
        read_recipe("paper", {"noise_range": text})
