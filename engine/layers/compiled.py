"""The three products of a convolution by the kernels in C: shapes are checked here, and memory is taken.

The functions are those of products.py, but for the weight, which is packed beforehand: once for many calls.
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
    """Whether kernels run on this tensor: one of float32 or bfloat16 on a CPU, where a library was built."""
    return x.device.type == "cpu" and x.dtype in TYPES and kernels.chosen() is not None


def pack(
    weight: Tensor,
    geometry: ConvGeometry,
    adjoint: bool,
    dtype: torch.dtype,
    whole: bool = True,
    keep: bool = False,
) -> Tensor:
    """A weight (k² · C, C_out) as `product`, or `adjoint`, wants it for activations of a type.

    whole: the sides of x are stride times those of y. keep: the result outlives the activations, so it lies in no
    arena. Raises ValueError if shapes do not fit.
    """
    if weight.dim() != 2 or not weight.numel() or weight.shape[0] % geometry.kernel_size**2:
        raise ValueError(
            f"a weight is a matrix with {geometry.kernel_size**2} rows for each channel;"
            f" got {tuple(weight.shape)}"
        )
    if 1 not in weight.stride():
        weight = weight.contiguous()
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(f"a weight is of {TYPES[0]} on the CPU; got {weight.dtype} on {weight.device}")
    # Any image will do: of its size, only whether it is whole counts.
    side = max(1, geometry.span - 2 * geometry.padding) + (not whole)
    channels = weight.shape[0] // geometry.kernel_size**2
    shape = _shape(geometry, (1, side, side, channels), (*geometry.out(side, side), weight.shape[1]), dtype)
    library = _library()
    size = library.conv_packed_size(byref(shape), adjoint)
    _succeed(size < 0)
    packed = torch.empty(size, dtype=torch.float32) if keep else empty((size,), torch.float32)
    _succeed(library.conv_pack(byref(shape), adjoint, weight.data_ptr(), *weight.stride(), packed.data_ptr()))
    return packed


def product(
    x: Tensor, packed: Tensor, geometry: ConvGeometry, size: tuple[int, int], channels: int, epilogue: Epilogue
) -> Tensor:
    """x (N, H, W, C) -> y = im2col(x) @ weight: (N, *size, channels). Raises ValueError if shapes do not fit."""
    shape = _shape(geometry, tuple(x.shape), (*size, channels), x.dtype)
    return _run(shape, False, x, packed, (len(x), *size, channels), epilogue)


def adjoint(
    y: Tensor, packed: Tensor, geometry: ConvGeometry, size: tuple[int, int], channels: int, epilogue: Epilogue
) -> Tensor:
    """y -> x = col2im(y @ weight'): (N, *size, channels). Raises ValueError if shapes do not fit."""
    n, *out = y.shape
    shape = _shape(geometry, (n, *size, channels), tuple(out), y.dtype)
    return _run(shape, True, y, packed, (n, *size, channels), epilogue)


def gradient(x: Tensor, y: Tensor, geometry: ConvGeometry, transposed: bool = False) -> Tensor:
    """im2col(x)' @ y over all rows: float32 (k² · C, C_out), or its transpose.

    Raises ValueError for shapes that do not fit.
    """
    shape = _shape(geometry, tuple(x.shape), tuple(y.shape[1:]), x.dtype)
    _check("x", x, tuple(x.shape), x.dtype)
    _check("y", y, (len(x), *y.shape[1:]), x.dtype)
    size = (geometry.kernel_size**2 * x.shape[3], y.shape[3])
    made = empty(size[::-1] if transposed else size, torch.float32)
    addresses = (x.data_ptr(), y.data_ptr(), made.data_ptr())
    _succeed(_library().conv_weight_gradient(byref(shape), *addresses, transposed))
    return made


def column_sums(x: Tensor) -> Tensor:
    """The sums over all but the last dimension, in float32: (C,)."""
    _check("x", x, tuple(x.shape), x.dtype)
    made = torch.empty(x.shape[-1], dtype=torch.float32)
    rows = x.numel() // max(1, x.shape[-1])
    half, threads = x.dtype == torch.bfloat16, torch.get_num_threads()
    _succeed(_library().sum_columns(rows, x.shape[-1], x.data_ptr(), half, made.data_ptr(), threads))
    return made


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a (m, k) @ b (k, n): by the kernels where they run, which on many processors beat torch's own product."""
    if not (supports(a) and a.dtype == b.dtype == torch.float32 and a.numel() and b.numel()):
        return a @ b
    # A convolution of one row of m pixels.
    x, geometry = a.contiguous().view(1, 1, *a.shape), ConvGeometry(1)
    packed = pack(b, geometry, False, a.dtype)
    return product(x, packed, geometry, (1, len(a)), b.shape[1], Epilogue()).view(len(a), -1)


def rearrange(x: Tensor, block: int, deeper: bool, dtype: torch.dtype, add: Tensor | None = None) -> Tensor:
    """Pixels to channels, or back, in another type, plus `add`. Sides and channels are those that fit."""
    if x.dim() != 4 or dtype not in TYPES:
        raise ValueError(
            f"a batch is (N, H, W, C), in {TYPES[0]} or {TYPES[1]}; got {tuple(x.shape)}, for {dtype}"
        )
    _check("x", x, tuple(x.shape), x.dtype)
    n, height, width, channels = x.shape
    if (height % block or width % block) if deeper else channels % block**2:
        raise ValueError(f"sides must be multiples of {block}, or channels of its square; got {tuple(x.shape)}")
    if deeper:
        made, wide = (n, height // block, width // block, channels * block**2), (height, width, channels)
    else:
        wide = (height * block, width * block, channels // block**2)
        made = (n, *wide)
    if add is not None:
        _check("add", add, made, dtype)
    y = empty(made, dtype)
    half = (x.dtype == torch.bfloat16, dtype == torch.bfloat16)
    _succeed(
        _library().rearrange_pixels(
            *(deeper, n * wide[0], *wide[1:], block, x.data_ptr(), half[0]),
            *(None if add is None else add.data_ptr(), y.data_ptr(), half[1], torch.get_num_threads()),
        )
    )
    return y


def _run(
    shape: kernels.Shape,
    adjoint: bool,
    given: Tensor,
    packed: Tensor,
    made: tuple[int, ...],
    epilogue: Epilogue,
) -> Tensor:
    _check("the input", given, tuple(given.shape), given.dtype)
    library = _library()
    _check("the packed weight", packed, (library.conv_packed_size(byref(shape), adjoint),), torch.float32)
    epilogue.check(made, given.dtype)
    bias, add, relu, mask, in_place = epilogue
    for name, part in epilogue._asdict().items():
        if isinstance(part, Tensor) and part.device.type != "cpu":
            raise ValueError(f"{name} must be contiguous on the CPU; got one on {part.device}")
    # Each number of `add` is read before that of the result is written there, but not before all else is read.
    read = [part.untyped_storage().data_ptr() for part in (given, mask) if part is not None]
    over = add is not None and in_place and add.untyped_storage().data_ptr() not in read
    y = add if add is not None and over else empty(made, given.dtype)
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in (bias, add, mask))
    at_store = kernels.Epilogue(*addresses, relu)
    _succeed(
        library.conv_product(
            byref(shape), adjoint, given.data_ptr(), packed.data_ptr(), byref(at_store), y.data_ptr()
        )
    )
    return y


def _shape(geometry: ConvGeometry, x: tuple[int, ...], y: tuple[int, ...], dtype: torch.dtype) -> kernels.Shape:
    return _cached_shape(geometry, x, y, dtype, torch.get_num_threads())


@lru_cache(1024)
def _cached_shape(
    geometry: ConvGeometry, x: tuple[int, ...], y: tuple[int, ...], dtype: torch.dtype, threads: int
) -> kernels.Shape:
    """Raises ValueError unless the window makes y, (H_out, W_out, C_out), of x, (N, H, W, C)."""
    if len(x) != 4 or len(y) != 3 or min(*x, *y) < 1:
        raise ValueError(f"a batch is (N, H, W, C), none of them 0; got {x} and {y}")
    made = geometry.out(x[1], x[2])
    # The output padding of a transposed convolution may leave room for windows that it does not have.
    room = (max(geometry.stride, geometry.dilation) - 1) // geometry.stride
    if any(not most - room <= side <= most for side, most in zip(y, made, strict=False)):
        raise ValueError(f"{geometry} makes {made[0]} x {made[1]} pixels of {x[1]} x {x[2]}; got {y[0]} x {y[1]}")
    if dtype not in TYPES:
        raise ValueError(f"kernels take what is of {TYPES[0]} or {TYPES[1]}; got {dtype}")
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


def _succeed(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for what a convolution works in")
