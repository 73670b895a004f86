"""The purpose of weights, by their recipe."""

import json

import pytest

from service.registry.purpose import UNKNOWN, purpose_of


@pytest.mark.parametrize(("recipe", "noise", "for_photos"), [
    ({"noise": "camera", "grey": 0.1}, "camera", True),
    ({"noise": "gaussian", "grey": 0.03}, "white", True),
    ({"noise": "gaussian"}, "white", True),
    ({"noise": "gaussian", "grey": 1.0}, "grey", True),
    ({"noise": "random-pixel", "grey": 0.0}, "renders", False),
])  # fmt: skip
def test_a_recipe_tells_what_weights_are_for(recipe, noise, for_photos):
    purpose = purpose_of({"recipe": json.dumps(recipe)})

    assert (purpose.noise, purpose.for_photos) == (noise, for_photos)
    assert purpose.use is not None
    assert purpose.use.endswith(".")


@pytest.mark.parametrize("metadata", [
    {}, {"recipe": "tiny"}, {"recipe": "[]"}, {"recipe": "7"}, {"recipe": '{"noise": "pairs"}'},
    {"recipe": '{"noise": ["gaussian"]}'},
])  # fmt: skip
def test_weights_without_a_known_recipe_may_be_for_anything(metadata):
    assert purpose_of(metadata) == UNKNOWN
    assert UNKNOWN.for_photos
