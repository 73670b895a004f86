import io

import pytest
import torch
from PIL import Image

from engine.evaluation.figures import demo
from engine.models.networks import UNetConfig, build_network


def test_the_demo_has_a_row_for_each_pair(tmp_path):
    net = build_network(UNetConfig((8,), (1,)), torch.Generator().manual_seed(0))
    pairs = [(torch.rand(8, 8, 3), torch.rand(8, 8, 3)) for _ in range(3)]

    demo(net, pairs[:1], tmp_path / "one.png")
    demo(net, pairs, tmp_path / "three.png")

    one, three = (Image.open(io.BytesIO((tmp_path / name).read_bytes())) for name in ("one.png", "three.png"))
    assert three.height == 3 * one.height
    assert three.width == one.width


def test_a_demo_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no pairs to show"):
        demo(build_network(UNetConfig((8,), (1,))), [], tmp_path / "demo.png")
