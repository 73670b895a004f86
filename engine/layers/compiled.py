"""Compiled path: the three products of a convolution by the kernels in C.

The functions are those of plain.py, but they take a packed weight, which is packed once for many calls. The
kernels check no shapes, so these functions check them, and allocate the results.
"""

from ctypes import byref
from functools import lru_cache

import torch
from torch import Tensor

from engine.layers import kernels
from engine.layers.arena import empty
from engine.layers.plain import Epilogue, check
from engine.layers.unfold import ConvGeometry

TYPES = (torch.float32, torch.bfloat16)


def supports(x: Tensor) -> bool:
    """Whether kernels can run on this tensor: float32 or bfloat16, on a CPU, and a library is loaded."""
    return x.device.type == "cpu" and x.dtype in TYPES and kernels.chosen() is not None


def pack(
    weight: Tensor,
    geometry: ConvGeometry,
    adjoint: bool,
    dtype: torch.dtype,
    exact: bool = True,
    keep: bool = False,
) -> Tensor:
    """The packed weight for `product` or `adjoint` on activations of type `dtype`. weight: (k² · C, C_out).

    exact: the sides of x are stride times those of y. keep: the packed weight outlives the activations, so it is
    not in the arena. Raises ValueError if shapes do not fit.
    """
    if weight.dim() != 2 or not weight.numel() or weight.shape[0] % geometry.kernel_size**2:
        raise ValueError(
            f"a weight must be a matrix with {geometry.kernel_size**2} rows for each channel;"
            f" got {tuple(weight.shape)}"
        )
    if 1 not in weight.stride():
        weight = weight.contiguous()
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(f"a weight must be {TYPES[0]} on the CPU; got {weight.dtype} on {weight.device}")
    # The packing depends on the image's size only by whether it is exact.
    side = max(1, geometry.span - 2 * geometry.padding) + (not exact)
    channels = weight.shape[0] // geometry.kernel_size**2
    shape = _shape(geometry, (1, side, side, channels), (*geometry.out(side, side), weight.shape[1]), dtype)
    library = _library()
    size = library.conv_packed_size(byref(shape), adjoint)
    _raise_if_failed(size < 0)
    packed = torch.empty(size, dtype=torch.float32) if keep else empty((size,), torch.float32)
    _raise_if_failed(
        library.conv_pack(byref(shape), adjoint, weight.data_ptr(), *weight.stride(), packed.data_ptr())
    )
    return packed


def product(
    x: Tensor, packed: Tensor, geometry: ConvGeometry, size: tuple[int, int], channels: int, epilogue: Epilogue
) -> Tensor:
    """im2col(x) @ weight: x (N, H, W, C) -> y (N, *size, channels). Raises ValueError if shapes do not fit."""
    shape = _shape(geometry, tuple(x.shape), (*size, channels), x.dtype)
    return _run_product(shape, False, x, packed, (len(x), *size, channels), epilogue)


def adjoint(
    y: Tensor, packed: Tensor, geometry: ConvGeometry, size: tuple[int, int], channels: int, epilogue: Epilogue
) -> Tensor:
    """col2im(y @ weight'): y (N, H_out, W_out, C_out) -> x (N, *size, channels). Raises ValueError likewise."""
    n, *out = y.shape
    shape = _shape(geometry, (n, *size, channels), tuple(out), y.dtype)
    return _run_product(shape, True, y, packed, (n, *size, channels), epilogue)


def gradient(x: Tensor, y: Tensor, geometry: ConvGeometry, transposed: bool = False) -> Tensor:
    """im2col(x)' @ y over all pixels: float32 (k² · C, C_out), or its transpose. Raises ValueError likewise."""
    shape = _shape(geometry, tuple(x.shape), tuple(y.shape[1:]), x.dtype)
    _check("x", x, tuple(x.shape), x.dtype)
    _check("y", y, (len(x), *y.shape[1:]), x.dtype)
    size = (geometry.kernel_size**2 * x.shape[3], y.shape[3])
    result = empty(size[::-1] if transposed else size, torch.float32)
    addresses = (x.data_ptr(), y.data_ptr(), result.data_ptr())
    _raise_if_failed(_library().conv_weight_gradient(byref(shape), *addresses, transposed))
    return result


def column_sums(x: Tensor) -> Tensor:
    """Sums over all dimensions but the last, in float32: (C,)."""
    _check("x", x, tuple(x.shape), x.dtype)
    sums = torch.empty(x.shape[-1], dtype=torch.float32)
    rows = x.numel() // max(1, x.shape[-1])
    half, threads = x.dtype == torch.bfloat16, torch.get_num_threads()
    _raise_if_failed(_library().sum_columns(rows, x.shape[-1], x.data_ptr(), half, sums.data_ptr(), threads))
    return sums


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a (m, k) @ b (k, n), by the kernels where they run: on many processors they are faster than torch."""
    if not (supports(a) and a.dtype == b.dtype == torch.float32 and a.numel() and b.numel()):
        return a @ b
    # As a 1x1 convolution of an image of 1 x m pixels.
    x, geometry = a.contiguous().view(1, 1, *a.shape), ConvGeometry(1)
    packed = pack(b, geometry, False, a.dtype)
    return product(x, packed, geometry, (1, len(a)), b.shape[1], Epilogue()).view(len(a), -1)


def rearrange(x: Tensor, block: int, to_depth: bool, dtype: torch.dtype, add: Tensor | None = None) -> Tensor:
    """Pixels to channels, or back, converted to `dtype`, plus `add`. Raises ValueError if shapes do not fit."""
    if x.dim() != 4 or dtype not in TYPES:
        raise ValueError(
            f"a batch must be (N, H, W, C), to {TYPES[0]} or {TYPES[1]}; got {tuple(x.shape)}, to {dtype}"
        )
    _check("x", x, tuple(x.shape), x.dtype)
    n, height, width, channels = x.shape
    if (height % block or width % block) if to_depth else channels % block**2:
        raise ValueError(f"sides must be multiples of {block}, or channels of {block**2}; got {tuple(x.shape)}")
    if to_depth:
        size, wide = (n, height // block, width // block, channels * block**2), (height, width, channels)
    else:
        wide = (height * block, width * block, channels // block**2)
        size = (n, *wide)
    if add is not None:
        _check("add", add, size, dtype)
    y = empty(size, dtype)
    half = (x.dtype == torch.bfloat16, dtype == torch.bfloat16)
    _raise_if_failed(
        _library().rearrange_pixels(
            *(to_depth, n * wide[0], *wide[1:], block, x.data_ptr(), half[0]),
            *(None if add is None else add.data_ptr(), y.data_ptr(), half[1], torch.get_num_threads()),
        )
    )
    return y


def _run_product(
    shape: kernels.Shape, adjoint: bool, x: Tensor, packed: Tensor, size: tuple[int, ...], epilogue: Epilogue
) -> Tensor:
    _check("the input", x, tuple(x.shape), x.dtype)
    library = _library()
    _check("the packed weight", packed, (library.conv_packed_size(byref(shape), adjoint),), torch.float32)
    epilogue.check(size, x.dtype)
    bias, add, relu, mask, in_place = epilogue
    for name, part in epilogue._asdict().items():
        if isinstance(part, Tensor) and part.device.type != "cpu":
            raise ValueError(f"{name} must be contiguous on the CPU; got a tensor on {part.device}")
    # A kernel reads each number of `add` before it writes the result there, but reads x and the mask at any time.
    read = [part.untyped_storage().data_ptr() for part in (x, mask) if part is not None]
    over = add is not None and in_place and add.untyped_storage().data_ptr() not in read
    y = add if add is not None and over else empty(size, x.dtype)
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in (bias, add, mask))
    at_store = kernels.Epilogue(*addresses, relu)
    _raise_if_failed(
        library.conv_product(
            byref(shape), adjoint, x.data_ptr(), packed.data_ptr(), byref(at_store), y.data_ptr()
        )
    )
    return y


def _shape(geometry: ConvGeometry, x: tuple[int, ...], y: tuple[int, ...], dtype: torch.dtype) -> kernels.Shape:
    return _cached_shape(geometry, x, y, dtype, torch.get_num_threads())


@lru_cache(1024)
def _cached_shape(
    geometry: ConvGeometry, x: tuple[int, ...], y: tuple[int, ...], dtype: torch.dtype, threads: int
) -> kernels.Shape:
    """Raises ValueError unless the convolution of x, (N, H, W, C), gives y, (H_out, W_out, C_out)."""
    if len(x) != 4 or len(y) != 3 or min(*x, *y) < 1:
        raise ValueError(f"a batch must be (N, H, W, C), none of them 0; got {x} and {y}")
    out = geometry.out(x[1], x[2])
    # With output padding, x of a transposed convolution has room for more kernel positions than y has pixels.
    room = (max(geometry.stride, geometry.dilation) - 1) // geometry.stride
    if any(not most - room <= side <= most for side, most in zip(y, out, strict=False)):
        raise ValueError(f"{geometry} makes {out[0]} x {out[1]} pixels of {x[1]} x {x[2]}; got {y[0]} x {y[1]}")
    if dtype not in TYPES:
        raise ValueError(f"kernels take {TYPES[0]} or {TYPES[1]}; got {dtype}")
    steps = (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    return kernels.Shape(*x, *y, *steps, dtype == torch.bfloat16, threads, 0)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(name, tensor, shape, dtype)
    if tensor.device.type != "cpu" or dtype not in TYPES:
        raise ValueError(f"{name} must be contiguous, on the CPU, of {TYPES[0]} or {TYPES[1]}; got {dtype}")


def _library() -> kernels.Library:
    library = kernels.chosen()
    if library is None:
        raise ValueError("there are no kernels for this processor")
    return library


def _raise_if_failed(failed: int) -> None:
    if failed:
        raise MemoryError("out of memory in a convolution")
