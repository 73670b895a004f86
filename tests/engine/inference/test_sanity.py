"""The check of a network on a small picture."""

import pytest
import torch

from engine.inference.sanity import check
from engine.layers import slots
from engine.models.networks import PaperSpec, PhotoSpec, build_network


def network(spec, change=lambda name, value: value):
    net = build_network(spec, torch.Generator().manual_seed(0))
    for slot in slots(net):
        slot.layer.params[slot.key] = change(slot.name, slot.value)
    return net


@pytest.mark.parametrize("spec", [PhotoSpec((4, 6), (1, 1, 1)), PaperSpec(8), PaperSpec(8, "text")])
def test_a_network_that_has_learnt_nothing_yet_passes(spec):
    check(network(spec))


def test_weights_that_overflow_are_refused():
    net = network(PhotoSpec((4, 6), (1, 1, 1)), lambda name, value: torch.full_like(value, 1e30))

    with pytest.raises(ValueError, match="no finite number"):
        check(net)


def test_a_training_that_blew_up_is_refused_with_what_came_back():
    net = network(PhotoSpec((4, 6), (1, 1, 1)), lambda name, value: torch.full_like(value, 3.0))

    with pytest.raises(
        ValueError, match=r"further from the clean one than black or white is: from \S+ to \S+, off by"
    ):
        check(net)


@pytest.mark.parametrize("shade", [-50.0, 50.0])
def test_a_network_that_makes_all_pictures_black_or_white_is_refused(shade):
    net = network(PaperSpec(4), lambda name, value: value + shade * name.endswith("6.bias"))

    with pytest.raises(ValueError, match="further from the clean one"):
        check(net)


def test_a_check_leaves_no_packed_weights():
    net = network(PhotoSpec((4, 6), (1, 1, 1)))

    check(net)

    assert not any(slot.layer._packed for slot in slots(net))
