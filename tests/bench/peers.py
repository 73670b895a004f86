"""Other software that runs the same network on an image, float32 (H, W, 3) -> the same shape."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.inference.tiling import GRID
from engine.layers import Module
from engine.models.onnx_export import INPUT, OnnxMissing, onnx_bytes

from .rows import Unavailable
from .torch_copy import bfloat16_copy, torch_copy

Denoise = Callable[[Tensor], Tensor]

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def torch_nn(net: Module, precision: str, device: str = "cpu") -> dict[str, Denoise]:
    """Every way to run the network in torch.nn: in two layouts, and in bfloat16 by conversion and by autocast.

    device: where it runs. Images come from the CPU and return to it.
    """
    modules = {"": (torch_copy(net).module, False)}
    if precision == "bfloat16":
        modules = {" converted": (bfloat16_copy(net), False), " autocast": (torch_copy(net).module, True)}
    return {
        f"{name}{how}": _torch_nn(module.eval(), layout, autocast, device)
        for how, (module, autocast) in modules.items()
        for name, layout in LAYOUTS.items()
    }


def _torch_nn(module: nn.Module, layout: torch.memory_format, autocast: bool, device: str) -> Denoise:
    # A copy, because each layout needs its own weights.
    module = copy.deepcopy(module).to(device, memory_format=layout)

    def denoise(image: Tensor) -> Tensor:
        x = mirrored(image).to(device).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=autocast):
            y = module(x)
        return y.permute(0, 2, 3, 1)[0, : image.shape[0], : image.shape[1]].contiguous().cpu()

    return denoise


def onnx_runtime(net: Module, size: tuple[int, int], precision: str, threads: int) -> Denoise:
    """ONNX Runtime. Raises Unavailable if it is not installed, and for bfloat16."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed") from error
    if precision != "float32":
        raise Unavailable(f"it has no convolution in {precision} on processors")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads spin during a run, but not into the run of the next program.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(_onnx_file(net, size), options, providers=["CPUExecutionProvider"])

    def denoise(image: Tensor) -> Tensor:
        result = session.run(None, {INPUT: mirrored(image).numpy()})[0]
        return torch.from_numpy(result)[0, : image.shape[0], : image.shape[1]].contiguous()

    return denoise


def openvino(net: Module, size: tuple[int, int], precision: str, threads: int) -> Denoise:
    """OpenVINO, with the same ONNX file. Raises Unavailable if it is not installed or refuses the precision."""
    try:
        import openvino as ov
    except ImportError as error:
        raise Unavailable("openvino is not installed") from error
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    core = ov.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(_onnx_file(net, size)), "CPU", settings)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != hint:
        raise Unavailable(f"it runs in {used} instead of {hint}")
    request = compiled.create_infer_request()

    def denoise(image: Tensor) -> Tensor:
        result = request.infer([mirrored(image).numpy()], share_inputs=True, share_outputs=True)[0]
        # The result lies in memory that the next run overwrites.
        return torch.from_numpy(result)[0, : image.shape[0], : image.shape[1]].clone()

    return denoise


def mirrored(image: Tensor) -> Tensor:
    """(H, W, 3) -> (1, H', W', 3), mirrored right and below to whole patches, as in the engine."""
    height, width = image.shape[:2]
    x = image.permute(2, 0, 1).unsqueeze(0)
    below, right = (-side % GRID for side in (height, width))
    if below or right:
        x = nn.functional.pad(x, (0, right, 0, below), mode="reflect")
    return x.permute(0, 2, 3, 1).contiguous()


def _onnx_file(net: Module, size: tuple[int, int]) -> bytes:
    """The network for images of one size, mirrored to whole patches. Raises Unavailable without onnx."""
    height, width = (side + -side % GRID for side in size)
    try:
        return onnx_bytes(net, (height, width))
    except OnnxMissing as error:
        raise Unavailable("onnx is not installed") from error
