"""Images of engine/README.md: they show the networks as they are, and the files are up to date."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from engine.evaluation import readme_images
from engine.evaluation.readme_images import FOLDER, draw_network, images, rows_of, take_curve
from engine.layers import MSE
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network, parameter_count
from engine.models.unet import UNetConfig

ROOT = Path(__file__).parents[3]
CONFIGS = [
    AutoencoderConfig(hidden=16),
    AutoencoderConfig(hidden=16, geometry="text"),
    UNetConfig(channels=(8, 16), blocks=(1, 2, 1)),
    UNetConfig(channels=(8, 16, 24), blocks=(2, 0, 3, 1, 0)),
]


def test_the_files_are_up_to_date():
    drawn = images()

    assert sorted(file.name for file in FOLDER.glob("*.svg")) == sorted(drawn)
    for name, text in drawn.items():
        # To draw them again: python -m engine.evaluation.readme_images
        assert (FOLDER / name).read_text("utf-8") == text, name


def test_the_readme_shows_every_image():
    shown = re.findall(r"\]\(images/([^)]*\.svg)\)", (ROOT / "engine" / "README.md").read_text("utf-8"))

    assert sorted(shown) == sorted(images())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_rows_have_all_parameters_and_end_as_they_began(config):
    net = build_network(config)

    first, *rows, last = rows_of(net, 3)

    assert sum(row.parameters for row in rows) == parameter_count(net)
    assert (first.shape, last.shape) == ("H × W × 3", "H × W × 3")


def test_the_rows_of_the_reports_network():
    rows = rows_of(build_network(AutoencoderConfig(hidden=16)), 3)

    assert [(row.text, row.shape) for row in rows[1:-1]] == [
        ("conv 3 × 3, stride 2, ReLU", "H/2 × W/2 × 16"),
        ("conv 3 × 3, stride 2, ReLU", "H/4 × W/4 × 16"),
        ("transposed conv 2 × 2, stride 2, ReLU", "H/2 × W/2 × 16"),
        ("transposed conv 2 × 2, stride 2, Sigmoid", "H × W × 3"),
    ]


def test_the_rows_of_a_unet_with_what_each_adds():
    rows = rows_of(build_network(UNetConfig(channels=(8, 16), blocks=(1, 2, 1))), 3)

    assert [(row.text, row.shape, row.adds) for row in rows[1:-1]] == [
        ("space to depth, 2 × 2", "H/2 × W/2 × 12", None),
        ("conv 3 × 3", "H/2 × W/2 × 8", None),
        ("residual block", "H/2 × W/2 × 8", None),
        ("conv 2 × 2, stride 2", "H/4 × W/4 × 16", None),
        ("2 × residual block", "H/4 × W/4 × 16", None),
        ("transposed conv 2 × 2, stride 2", "H/2 × W/2 × 8", 3),
        ("residual block", "H/2 × W/2 × 8", None),
        ("conv 3 × 3", "H/2 × W/2 × 12", None),
        ("depth to space, 2 × 2", "H × W × 3", 0),
    ]


def test_a_layer_without_a_drawing_is_refused_by_name():
    layer = MSE()
    layer.layers, layer.params = (), {}

    with pytest.raises(ValueError, match="MSE: no drawing is known"):
        rows_of(layer, 3)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_drawing_is_well_formed_and_lies_within_its_frame(config):
    drawn = ElementTree.fromstring(draw_network("A <network>", config))
    height = float(drawn.get("height"))

    for text in drawn.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 < float(text.get("x")) < readme_images.WIDTH
        assert 0 < float(text.get("y")) < height


def test_a_curve_is_taken_from_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(readme_images, "CURVE", tmp_path / "curve.csv")
    log = tmp_path / "run.jsonl"
    log.write_text(
        '{"step": 5, "seconds": 30.0, "megapixels": 1, "loss": 0.1, "psnr": 20.12345}\n'
        '{"step": 9, "seconds": 45.0, "megapixels": 2, "loss": 0.1}\n'
        '{"step": 20, "seconds": 90.0, "megapixels": 3, "loss": 0.1, "psnr": 22}\n'
    )

    take_curve(log)

    assert (tmp_path / "curve.csv").read_text() == "step,psnr\n5,20.123\n20,22.000\n"
    assert readme_images.read_curve() == [(5, 20.123), (20, 22.0)]
