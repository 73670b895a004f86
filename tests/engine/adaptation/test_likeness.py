"""Likeness: shots of one scene are told from shots of others, through noise."""

import pytest
import torch

from engine.adaptation.likeness import likeness, show_one_scene
from tests.support.bursts import photons, scene, shots, white


def colour(shot):
    return shot.float().unsqueeze(2)


@pytest.mark.parametrize("noise", [white(5), white(60), photons(20)])
def test_shots_of_one_scene_are_known(noise):
    for number in range(3):
        assert show_one_scene(*map(colour, shots(scene(number, 128), noise, 2, number)))


@pytest.mark.parametrize("noise", [white(60), photons(20)])
def test_dim_scenes_are_never_called_different(noise):
    for number in range(5):
        dim = scene(number, 128, photograph=False)

        assert not likeness(*map(colour, shots(dim, noise, 2, number))).differs


@pytest.mark.parametrize("noise", [white(5), white(60)])
def test_shots_of_other_scenes_are_told_apart(noise):
    for number in range(4):
        pair = [colour(shots(scene(each, 128), noise, 1, each)[0]) for each in (number, number + 50)]

        assert likeness(*pair).differs
        assert not show_one_scene(*pair)


def test_noise_alone_tells_nothing(rng):
    found = likeness(torch.randn(128, 128, 1, generator=rng), torch.randn(128, 128, 1, generator=rng))

    assert not found.is_certain
    assert not found.differs
