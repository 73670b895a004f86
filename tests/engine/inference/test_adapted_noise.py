"""Adapted noise: kept in the metadata of weights, told in words, and refused where it cannot be read."""

import json
from dataclasses import replace

import pytest

from engine.data.noise.anscombe import NoiseLaw
from engine.inference.adapted_noise import (
    GATE_KEY,
    NOISE_KEY,
    REFUSED,
    choosable,
    laws_in,
    laws_to_metadata,
    noise_in,
    noise_words,
)
from tests.support.adapted import LAW, PHOTONS, SMEARED, WHITE, metadata_of

STRETCHED = replace(PHOTONS, laws=((LAW,), (NoiseLaw(1.0, 50.0, 1.0),), (NoiseLaw(3.0, 150.0, 9.0),)))


@pytest.mark.parametrize("noise", [PHOTONS, WHITE, SMEARED, STRETCHED])
def test_metadata_keeps_the_noise(noise):
    assert noise_in(metadata_of(noise)) == noise


def test_weights_that_were_not_adapted_carry_no_noise():
    assert noise_in({"recipe": "{}"}) is None
    assert noise_words({"recipe": "{}"}) == ""


def test_laws_are_kept_in_metadata():
    laws = (LAW, LAW, NoiseLaw(1.5, -3.0, 0.25))

    assert laws_in(laws_to_metadata(laws)) == laws
    assert laws_in(laws_to_metadata(())) == ()
    with pytest.raises(ValueError, match="cannot be read"):
        laws_in({"noise law": "[[1]]"})


@pytest.mark.parametrize(("change", "reason"), [
    ({"channels": 2}, "no images of 2 channels"),
    ({"samples": "int7"}, "no images of 1 channels of int7"),
    ({"laws": [], "levels": []}, "neither a law nor levels"),
    ({"laws": [[[2, 100, 4], [2, 100, 4]]]}, "not for 1 channels"),
    ({"laws": [[[-2, 100, 4]]]}, "no gain"),
    ({"share": [0, 1]}, "not positive"),
    ({"brightness": [0, None]}, "cannot be read"),
    ({"correlation": [0, 0]}, "cannot be read"),
    ({"share": [0.1, float("inf")]}, "not finite"),
])  # fmt: skip
def test_a_noise_that_no_weights_have_is_refused(change, reason):
    values = json.loads(PHOTONS.to_metadata()[NOISE_KEY])
    metadata = {**metadata_of(PHOTONS), NOISE_KEY: json.dumps({**values, **change})}

    with pytest.raises(ValueError, match=reason):
        noise_in(metadata)
    assert choosable({"mine": metadata}) == {}
    assert noise_words(metadata) == ""


def test_only_weights_that_passed_the_gate_may_be_chosen():
    passed, refused = metadata_of(PHOTONS), {**metadata_of(PHOTONS), GATE_KEY: REFUSED}

    assert choosable({"mine": passed, "mine.refused": refused, "photo": {}}) == {"mine": PHOTONS}


def test_the_noise_is_told_in_words():
    assert noise_words(metadata_of(PHOTONS)) == (
        "Adapted to grey 16-bit images of brightness 95 to 570 with noise that grows with brightness as photons' "
        "does (gain 2, read noise 2.02, black at 100)."
    )
    assert noise_words(metadata_of(SMEARED)).endswith(
        "with noise of about 25, shared by neighbouring pixels (correlation 0.50)."
    )
    assert "stretched file by file (gain 1 to 3)" in noise_words(metadata_of(STRETCHED))


def test_weights_with_a_law_alone_tell_it():
    words = noise_words(laws_to_metadata((LAW,)))

    assert words.startswith("Adapted to noise that grows with brightness")
