"""Purpose of weights: the images and the noise that a network is for, by the recipe in its metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.inference.adapted_noise import noise_words

Noise = Literal["camera", "white", "grey", "renders", "own"]


@dataclass(frozen=True)
class Purpose:
    """What weights are for. noise: what they were trained on; None if that is not known. use: for people."""

    noise: Noise | None
    use: str | None

    @property
    def for_photos(self) -> bool:
        """Whether they may be used for photographs."""
        return self.noise != "renders"


CHOICE = Purpose(None, "Measures the noise, and takes the model that suits it.")
UNKNOWN = Purpose(None, None)
_PURPOSES: Mapping[Noise, Purpose] = {
    "camera": Purpose("camera", "For photos: JPEG files of cameras and phones, developed raw files."),
    "white": Purpose("white", "For noise that differs from pixel to pixel: scans, renders, microscopes."),
    "grey": Purpose("grey", "For images without colour whose noise differs from pixel to pixel."),
    "renders": Purpose("renders", "For renders with few samples a pixel. Not for photos."),
    "own": Purpose("own", "For your own noise."),
}
# By the noise of a recipe.
_NOISES: Mapping[str, Noise] = {"camera": "camera", "gaussian": "white", "random-pixel": "renders"}


def purpose_of(metadata: Mapping[str, str]) -> Purpose:
    """The purpose of weights with this metadata; UNKNOWN if they have no recipe.

    Adapted weights have a recipe too, whose noise is not that of the shots.
    """
    if words := noise_words(metadata):
        return Purpose("own", words)
    try:
        recipe = json.loads(metadata.get("recipe", "{}"))
        noise = _NOISES[recipe["noise"]]
        is_grey = recipe.get("grey") == 1
    except (ValueError, KeyError, TypeError, AttributeError):
        return UNKNOWN
    return _PURPOSES["grey" if noise == "white" and is_grey else noise]
