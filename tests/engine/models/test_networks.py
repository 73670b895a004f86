import json

import pytest
import torch
from torch.nn import functional

from engine.layers import Skip, parameters
from engine.models.networks import (
    AutoencoderConfig,
    UNetConfig,
    build_network,
    config_from_dict,
    config_to_dict,
    halo,
    kind_of,
    parameter_count,
    reach,
)
from tests.support.oracle import (
    PATHS,
    assert_passes_agree,
    channels_first,
    channels_last,
    conv2d,
    conv_transpose2d,
    drawn,
    randomised,
)

SIZE_S = UNetConfig()
SIZE_M = UNetConfig((48, 96, 192), (1, 1, 4, 1, 1))
SIZE_L = UNetConfig((64, 128, 256), (2, 2, 6, 2, 2))
# As deep as S.
THIN_S = UNetConfig((4, 4, 4), SIZE_S.blocks)
SMALL = UNetConfig((4, 6), (1, 2, 1))
SPECS = [AutoencoderConfig(4, "text"), AutoencoderConfig(4, "weights"), SMALL, UNetConfig((5,), (1,))]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Specs


@pytest.mark.parametrize("spec", [AutoencoderConfig(), AutoencoderConfig(32, "text"), SIZE_S, SMALL])
def test_a_spec_comes_back_from_the_json_of_a_weights_file(spec):
    text = json.dumps(config_to_dict(spec))

    assert config_from_dict(json.loads(text)) == spec
    assert json.loads(text)["kind"] == kind_of(spec)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="a network's kind is one of paper, photo; got 'unet'"):
        config_from_dict({"kind": "unet"})


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(ValueError, match="photo networks take blocks, channels; got depth, hidden"):
        config_from_dict({"kind": "photo", "hidden": 3, "depth": 2})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoencoderConfig(0), "hidden takes whole numbers of at least 1; got 0"),
        (lambda: AutoencoderConfig(32, "both"), 'geometry is "text" or "weights"; got \'both\''),
        (lambda: UNetConfig((32, 0), (1, 1, 1)), "channels takes whole numbers of at least 1; got 0"),
        (lambda: UNetConfig((32,), (-1,)), "blocks takes whole numbers of at least 0; got -1"),
        (lambda: UNetConfig((32, 64), (1, 1)), "2 levels of channels take 3 numbers of blocks; got 2"),
        (lambda: UNetConfig((), ()), "0 levels of channels"),
    ],
)
def test_a_spec_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Sizes, as the design has them


@pytest.mark.parametrize(
    ("spec", "millions", "reached", "margin"),
    [(SIZE_S, 1.16, 83, 88), (SIZE_M, 3.26, 99, 104), (SIZE_L, 8.9, 155, 160)],
)
def test_the_sizes_of_the_photo_network_are_those_of_the_design(spec, millions, reached, margin):
    net = build_network(spec)

    assert parameter_count(net) / 1e6 == pytest.approx(millions, rel=0.01)
    assert net.stride == 8
    assert reach(net) == reached
    assert halo(net) == margin


@pytest.mark.parametrize("hidden", [32, 64, 128, 256])
def test_the_paper_network_has_the_reports_layers_in_both_readings(hidden):
    shapes = {
        geometry: [
            tuple(parameter.value.shape)
            for parameter in parameters(build_network(AutoencoderConfig(hidden, geometry)))
        ]
        for geometry in ("text", "weights")
    }

    biases = [(hidden,), (hidden,), (hidden,), (3,)]
    assert shapes["text"][::2] == [(4 * 3, hidden), (4 * hidden, hidden), (hidden, 9 * hidden), (hidden, 9 * 3)]
    assert shapes["weights"][::2] == [
        (9 * 3, hidden),
        (9 * hidden, hidden),
        (hidden, 4 * hidden),
        (hidden, 4 * 3),
    ]
    assert shapes["text"][1::2] == shapes["weights"][1::2] == biases


@pytest.mark.parametrize("spec", SPECS)
def test_a_network_gives_back_the_size_it_is_given(spec):
    net = build_network(spec)

    assert net.forward(torch.rand(2, 16, 24, 3)).shape == (2, 16, 24, 3)


@pytest.mark.parametrize("path", PATHS)
def test_a_size_that_is_no_multiple_of_the_stride_is_refused(path):
    with (
        path(),
        pytest.raises(ValueError, match=r"add must be contiguous \(1, 2, 2, 64\) .*; got \(1, 3, 3, 64\)"),
    ):
        build_network(SIZE_S).forward(torch.rand(1, 12, 12, 3))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_network_takes_images_and_gradients_that_are_no_contiguous_block(spec, path):
    net, x = build_network(spec, generator()), torch.rand(2, 16, 3, 24, generator=generator()).transpose(2, 3)
    with path():
        wanted = net.forward(x.contiguous(), train=True), net.backward(x.contiguous())

        made = net.forward(x, train=True), net.backward(x)

    assert torch.equal(made[0], wanted[0])
    assert torch.equal(made[1], wanted[1])


# What depends on what


@pytest.mark.parametrize("spec", [*SPECS, THIN_S])
def test_reach_and_stride_are_true(spec):
    net = randomised(build_network(spec))
    middle = halo(net)
    places = [(at, *net.inputs_of(at, at)) for at in range(middle, middle + net.stride)]
    x = drawn(8, net.stride, 2 * middle + net.stride, 3)
    before = net.forward(x)

    def moves(at, changed):
        """Whether a column of the output moves with a column of the input, in any of the images."""
        other = x.clone()
        other[:, :, changed] += 1
        return not torch.equal(net.forward(other)[:, :, at], before[:, :, at])

    assert max(max(at - first, last - at) for at, first, last in places) == reach(net)
    for at, first, last in places:
        assert moves(at, first)
        assert moves(at, last)
        assert first == 0 or not moves(at, first - 1)
        assert last == x.shape[2] - 1 or not moves(at, last + 1)


@pytest.mark.parametrize("spec", SPECS)
def test_a_shift_by_the_stride_shifts_the_output(spec):
    net = randomised(build_network(spec))
    margin, step = halo(net), net.stride
    x = drawn(1, step, 2 * margin + 4 * step, 3)

    later, sooner = net.forward(x[:, :, step:]), net.forward(x[:, :, :-step])

    torch.testing.assert_close(later[:, :, margin : -margin - step], sooner[:, :, margin + step : -margin])


# The passes of whole networks


def torch_paper(spec):
    down, up = {"stride": 2, "padding": 1}, {"stride": 2}
    if spec.geometry == "text":
        down, up = {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}

    def function(x, parameters):
        w1, b1, w2, b2, w3, b3, w4, b4 = parameters.values()
        x = conv2d(x, w1, b1, **down).relu()
        x = conv2d(x, w2, b2, **down).relu()
        x = conv_transpose2d(x, w3, b3, **up, out_channels=spec.hidden).relu()
        return conv_transpose2d(x, w4, b4, **up, out_channels=3).sigmoid()

    return function


def torch_photo(spec):
    """Written for two levels with 1, 2 and 1 blocks."""
    width = spec.channels[0]

    def block(x, weights):
        first, second = next(weights), next(weights)
        return x + conv2d(conv2d(x, first, padding=1).relu(), second, padding=1)

    def function(x, parameters):
        weights = iter(parameters.values())
        # torch's order of the channels is (colour, place); ours is (place, colour).
        halves = functional.pixel_unshuffle(channels_first(x), 2).unflatten(1, (3, 4))
        high = conv2d(channels_last(halves.transpose(1, 2).flatten(1, 2)), next(weights), padding=1)
        high = block(high, weights)
        low = conv2d(high, next(weights), stride=2)
        low = block(block(low, weights), weights)
        high = high + conv_transpose2d(low, next(weights), stride=2, out_channels=width)
        high = block(high, weights)
        tail = channels_first(conv2d(high, next(weights), padding=1)).unflatten(1, (4, 3))
        return x + channels_last(functional.pixel_shuffle(tail.transpose(1, 2).flatten(1, 2), 2))

    return function


@pytest.mark.parametrize("spec", [AutoencoderConfig(5, "text"), AutoencoderConfig(5, "weights")])
def test_the_paper_network_and_all_its_gradients_agree_with_autograd(spec):
    assert_passes_agree(randomised(build_network(spec)), torch_paper(spec), drawn(2, 8, 12, 3))


def test_the_photo_network_and_all_its_gradients_agree_with_autograd():
    assert_passes_agree(randomised(build_network(SMALL)), torch_photo(SMALL), drawn(2, 8, 12, 3))


@pytest.mark.parametrize("spec", SPECS)
def test_a_network_in_use_keeps_nothing_of_what_it_is_given(spec):
    def kept(layer):
        return [sorted(vars(layer)), *map(kept, layer.layers)]

    net = build_network(spec)
    before = kept(net)

    net.forward(torch.rand(1, 8, 8, 3))

    assert kept(net) == before


# What makes the photo network what it is


@pytest.mark.parametrize("factor", [0.01, 3.0])
def test_a_photo_network_scales_with_its_input(factor):
    net, x = randomised(build_network(SMALL)), drawn(1, 16, 16, 3)

    torch.testing.assert_close(net.forward(factor * x), factor * net.forward(x))


def test_a_fresh_photo_network_gives_back_exactly_what_it_is_given():
    x = torch.rand(1, 16, 16, 3, generator=generator())

    assert torch.equal(build_network(SIZE_S, generator()).forward(x), x)


def test_each_role_starts_with_the_spread_that_the_design_measured():
    net = build_network(SIZE_S, generator())
    _, head, block, *_, tail, _ = net.layers[0].layers
    skip = next(layer for layer in net.layers[0].layers if isinstance(layer, Skip))

    def spread(layer, fan_in):
        return layer.params["weight"].std().item() * fan_in**0.5

    assert spread(head, 9 * 12) == pytest.approx(1, rel=0.05)
    assert spread(block.first, 9 * 32) == pytest.approx(2**0.5, rel=0.05)
    assert spread(block.second, 9 * 32) == pytest.approx(0.3, rel=0.05)
    assert spread(skip.down, 4 * 32) == pytest.approx(1, rel=0.05)
    assert spread(skip.up, 64) == pytest.approx(1, rel=0.05)
    assert not tail.params["weight"].any()


def test_no_layer_of_a_photo_network_has_a_bias():
    assert {parameter.key for parameter in parameters(build_network(SIZE_S))} == {"weight"}


@pytest.mark.parametrize("spec", [AutoencoderConfig(8), SMALL])
def test_the_same_generator_makes_the_same_network(spec):
    first, second = (build_network(spec, generator(3)) for _ in range(2))

    for one, other in zip(parameters(first), parameters(second), strict=True):
        assert torch.equal(one.value, other.value)


def test_a_paper_network_answers_within_the_range_of_images():
    y = randomised(build_network(AutoencoderConfig(8))).forward(10 * drawn(1, 8, 8, 3))

    assert y.min() >= 0
    assert y.max() <= 1
