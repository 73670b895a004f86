import torch

from engine.layers import Conv2d, ConvTranspose2d, PixelResidual, ResBlock, Sequential, Skip, parameters


def test_parameters_are_named_by_their_place_in_the_forward_pass():
    block = ResBlock(Conv2d(2, 2, 1), Conv2d(2, 2, 1, bias=False))
    net = Sequential(Conv2d(1, 2, 1), Skip(Conv2d(2, 2, 1, bias=False), [block], ConvTranspose2d(2, 2, 1)))

    assert [(p.name, tuple(p.value.shape)) for p in parameters(net)] == [
        ("0.weight", (1, 2)),
        ("0.bias", (2,)),
        ("1.0.weight", (2, 2)),
        ("1.1.0.weight", (2, 2)),
        ("1.1.0.bias", (2,)),
        ("1.1.2.weight", (2, 2)),
        ("1.2.weight", (2, 2)),
        ("1.2.bias", (2,)),
    ]


def test_the_names_in_a_pixel_residual_count_its_rearrangements():
    net = PixelResidual(1, 2, torch.float32, Conv2d(4, 4, 1, bias=False), Conv2d(4, 4, 1, bias=False))

    assert [p.name for p in parameters(net)] == ["0.1.weight", "0.2.weight"]
