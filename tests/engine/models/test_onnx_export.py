"""ONNX Runtime gives the same image as our own forward pass."""

import sys
from pathlib import Path

import pytest
import torch

from engine.imageio.image import to_pixels
from engine.imageio.read import decode
from engine.inference.denoise import denoise_image
from engine.inference.tiling import GRID
from engine.layers import parameters
from engine.models import checkpoint
from engine.models.networks import AutoencoderConfig, UNetConfig, build_network
from engine.models.onnx_export import INPUT, OPSET, OnnxMissing, onnx_bytes

onnx = pytest.importorskip("onnx", reason="comes with the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="comes with the extra test")

NOISY = Path(__file__).parents[3] / "weights" / "examples" / "noisy.png"


def network(spec):
    """A network whose weights are all random: a fresh U-Net would return its input."""
    rng = torch.Generator().manual_seed(0)
    net = build_network(spec, rng)
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng) * 0.08
    return net


def by_onnx_runtime(data, image):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {INPUT: image.numpy()})[0])


@pytest.fixture(scope="module")
def tiny():
    return network(UNetConfig(channels=(8, 16), blocks=(1, 1, 1)))


@pytest.fixture(scope="module")
def exported(tiny):
    return onnx_bytes(tiny, multiple=GRID, metadata={"name": "tiny", "digest": "ab", "stride": "4"})


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (33, 32), (3, 50), (1, 1)])
def test_an_image_of_any_size_is_the_same(exported, tiny, size, rng):
    image = torch.rand(*size, 3, generator=rng)

    result = by_onnx_runtime(exported, image.unsqueeze(0))

    torch.testing.assert_close(result[0], denoise_image(tiny, image), atol=1e-4, rtol=0)


def test_a_batch_is_the_same_as_its_images(exported, tiny, rng):
    images = torch.rand(3, 20, 30, 3, generator=rng)

    results = by_onnx_runtime(exported, images)

    for result, image in zip(results, images, strict=True):
        torch.testing.assert_close(result, denoise_image(tiny, image), atol=1e-4, rtol=0)


@pytest.mark.parametrize("spec", [AutoencoderConfig(8), AutoencoderConfig(8, "text")], ids=str)
def test_the_autoencoder_is_the_same(spec, rng):
    net, image = network(spec), torch.rand(41, 30, 3, generator=rng)

    result = by_onnx_runtime(onnx_bytes(net, multiple=GRID), image.unsqueeze(0))

    torch.testing.assert_close(result[0], denoise_image(net, image), atol=1e-4, rtol=0)


def test_shipped_weights_are_the_same():
    net = checkpoint.load(checkpoint.weights_folder() / "photo-small.safetensors").net
    image = to_pixels(decode(NOISY.read_bytes()).samples)[:131, :157].contiguous()

    result = by_onnx_runtime(onnx_bytes(net, multiple=GRID), image.unsqueeze(0))

    torch.testing.assert_close(result[0], denoise_image(net, image), atol=1e-4, rtol=0)


def test_a_fixed_size_is_the_forward_pass(tiny, rng):
    images = torch.rand(1, 16, 24, 3, generator=rng)

    result = by_onnx_runtime(onnx_bytes(tiny, size=(16, 24)), images)

    torch.testing.assert_close(result, tiny.forward(images), atol=1e-4, rtol=0)


def test_the_file_has_its_opset_metadata_and_dynamic_sides(exported):
    model = onnx.load_from_string(exported)

    assert [opset.version for opset in model.opset_import] == [OPSET]
    props = {prop.key: prop.value for prop in model.metadata_props}
    assert props == {"name": "tiny", "digest": "ab", "stride": "4"}
    sides = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["batch", "height", "width", 3]


def test_padding_that_does_not_fit_the_stride_is_refused(tiny):
    with pytest.raises(ValueError, match="multiple of the network's stride, 4; got 6"):
        onnx_bytes(tiny, multiple=6)


def test_without_the_package_the_error_says_how_to_install_it(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)

    with pytest.raises(OnnxMissing, match=r"pip install 'denoise\[onnx\]'"):
        onnx_bytes(tiny)
