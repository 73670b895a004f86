"""ONNX export: writes a network as a file for ONNX Runtime, OpenVINO and others."""

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor

from engine.layers import (
    Conv2d,
    ConvTranspose2d,
    DepthToSpace,
    Module,
    PixelResidual,
    ReLU,
    ResBlock,
    Sequential,
    Sigmoid,
    Skip,
    SpaceToDepth,
)

# Both are old enough for every runtime of recent years.
OPSET = 17
IR_VERSION = 8
INPUT = "image"
OUTPUT = "denoised"
Convolution = Conv2d | ConvTranspose2d


class OnnxMissing(ValueError):
    """The package onnx is not installed."""


def onnx_bytes(
    net: Module,
    size: tuple[int, int] | None = None,
    multiple: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The network as an ONNX file that computes in float32.

    The input is float32 (N, height, width, 3), RGB on [0, 1]. The output has the same shape and is not clipped.

    size: fixes N to 1 and (height, width) to these multiples of the network's stride. Without it, the file takes
    any N, height and width: the graph mirrors the image, right and below, to multiples of `multiple` pixels (by
    default of the stride), and crops the result. metadata: written into the file.
    Raises OnnxMissing, or ValueError for another `multiple`.
    """
    try:
        from onnx import TensorProto, checker, helper
    except ImportError as error:
        raise OnnxMissing("ONNX export needs the package onnx: pip install 'denoise[onnx]'") from error
    multiple = multiple or net.stride
    if multiple % net.stride:
        raise ValueError(f"multiple must be a multiple of the network's stride, {net.stride}; got {multiple}")
    shape: list[int | str | None] = [1, *size, 3] if size else ["batch", "height", "width", 3]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in (INPUT, OUTPUT)]
    graph = _Graph()
    result = _nhwc(net, INPUT, graph) if size else _padded(net, INPUT, graph, multiple)
    graph.nodes.append(helper.make_node("Identity", [result], [OUTPUT]))
    made = helper.make_graph(graph.nodes, "denoise", ends[:1], ends[1:], graph.constants)
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="denoise",
        doc_string="Input: float32 (N, height, width, 3), RGB on [0, 1]. Output: the same shape, not clipped.",
    )
    helper.set_model_props(model, dict(metadata or {}))
    checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def kernel(layer: Convolution, weight: Tensor) -> Tensor:
    """The weight in the layout of ONNX: (C_out, C_in, k, k), or (C_in, C_out, k, k) if transposed."""
    k = layer.geometry.kernel_size
    if isinstance(layer, Conv2d):
        return weight.reshape(k, k, layer.in_channels, layer.out_channels).permute(3, 2, 0, 1)
    return weight.reshape(layer.in_channels, k, k, layer.out_channels).permute(0, 3, 1, 2)


class _Graph:
    """Nodes and constants in order. Each result has a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.names = (f"t{number}" for number in count())

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node. Returns the name of its result."""
        from onnx import helper

        name = next(self.names)
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Tensor) -> str:
        """Adds a constant. Returns its name."""
        from onnx import numpy_helper

        name = next(self.names)
        self.constants.append(numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name))
        return name

    def integer(self, value: int) -> str:
        """Adds an integer. Returns its name."""
        return self.constant(torch.tensor(value))

    def vector(self, value: int) -> str:
        """Adds a vector with one integer. Returns its name."""
        return self.constant(torch.tensor([value]))


def _padded(net: Module, x: str, graph: _Graph, multiple: int) -> str:
    """Mirrors (N, H, W, 3) to multiples of `multiple` pixels, runs the network, and crops the result."""
    shape = graph.add("Shape", x)
    sides = {axis: graph.add("Gather", shape, graph.integer(axis)) for axis in (1, 2)}
    y = x
    for axis, side in sides.items():
        y = graph.add("Gather", y, _mirrored(side, multiple, graph), axis=axis)
    y = _nhwc(net, y, graph)
    for axis, side in sides.items():
        stop = graph.add("Unsqueeze", side, graph.vector(0))
        y = graph.add("Slice", y, graph.vector(0), stop, graph.vector(axis))
    return y


def _mirrored(side: str, multiple: int, graph: _Graph) -> str:
    """The pixels along one side, mirrored at the last one until their number is a multiple of `multiple`.

    ONNX's Pad cannot mirror further than the image is long. These indices can: the image of `side` pixels repeats
    with a period of 2 * (side - 1), every other time in reverse.
    """
    zero, one, two, step = (graph.integer(number) for number in (0, 1, 2, multiple))
    last = graph.add("Sub", side, one)
    blocks = graph.add("Div", graph.add("Add", last, step), step)
    positions = graph.add("Range", zero, graph.add("Mul", blocks, step), one)
    # At least 1: an image of one pixel has no period.
    period = graph.add("Max", graph.add("Mul", last, two), one)
    distance = graph.add("Abs", graph.add("Sub", graph.add("Mod", positions, period), last))
    return graph.add("Sub", last, distance)


def _nhwc(net: Module, x: str, graph: _Graph) -> str:
    """Adds the network between two transpositions: ONNX has its channels before the pixels."""
    inside = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    return graph.add("Transpose", _layer(net, inside, graph), perm=[0, 2, 3, 1])


def _layer(layer: Module, x: str, graph: _Graph) -> str:
    """Adds the layer's nodes. Returns the name of their result."""
    match layer:
        case Conv2d() | ConvTranspose2d():
            return _convolution(layer, x, graph)
        case ReLU():
            return graph.add("Relu", x)
        case Sigmoid():
            return graph.add("Sigmoid", x)
        case SpaceToDepth():
            return graph.add("SpaceToDepth", x, blocksize=layer.block)
        case DepthToSpace():
            return graph.add("DepthToSpace", x, blocksize=layer.block, mode="DCR")
        case Sequential():
            y = x
            for inner in layer.layers:
                y = _layer(inner, y, graph)
            return graph.add("Add", x, y) if isinstance(layer, PixelResidual | ResBlock | Skip) else y
    raise TypeError(f"{type(layer).__name__} cannot be exported to ONNX; add it to onnx_export.py")


def _convolution(layer: Convolution, x: str, graph: _Graph) -> str:
    geometry = layer.geometry
    inputs = [x, graph.constant(kernel(layer, layer.params["weight"]))]
    if "bias" in layer.params:
        inputs.append(graph.constant(layer.params["bias"]))
    attributes: dict[str, Any] = {
        "kernel_shape": [geometry.kernel_size] * 2,
        "strides": [geometry.stride] * 2,
        "pads": [geometry.padding] * 4,
        "dilations": [geometry.dilation] * 2,
    }
    if isinstance(layer, Conv2d):
        return graph.add("Conv", *inputs, **attributes)
    return graph.add("ConvTranspose", *inputs, output_padding=[layer.output_padding] * 2, **attributes)
