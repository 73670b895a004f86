"""JPEG compression as tensor arithmetic: a whole batch at once, with a quality for each image.

No bytes are written: only the rounding of the coefficients loses anything, not their coding.
Source: ITU-T T.81, 1992, with JFIF's colours; where it leaves a choice, libjpeg's is taken.
"""

import math

import torch
from torch import Tensor

# Annex K, tables K.1 and K.2: quantisation steps of luma and chroma at quality 50, row by row.
LUMA_STEPS = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_STEPS = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
# Rows: Y, Cb, Cr from red, green and blue, by BT.601 in full range.
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
# Rows: red, green and blue from Y, Cb, Cr.
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def through_jpeg(images: Tensor, quality: Tensor, half_chroma: bool, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Images (N, H, W, 3) on [0, 1] after JPEG compression, rounded to 8 bits before and after it.

    quality: libjpeg's, 1 to 100, (N,). half_chroma: whether chroma has half the size (4:2:0). shift: how many
    rows and columns of a larger, compressed image lie above and left of these.
    """
    height, width = images.shape[1:3]
    rows, columns = (
        _block_indices(before, length, 16 if half_chroma else 8, images.device)
        for before, length in zip(shift, (height, width), strict=True)
    )
    padded = images.index_select(1, rows).index_select(2, columns).mul_(255).round_().clamp_(0, 255)
    luma, blue, red = (padded @ matrix(TO_YCC, padded.device).T).round_().unbind(3)
    # Chroma already lies on [-128, 128]: the offset of 128 is never added to it.
    luma, chroma = luma - 128, torch.cat((blue, red))
    luma = _quantise(luma, _scaled_steps(LUMA_STEPS, quality))
    if half_chroma:
        chroma = _downsample(chroma)
    chroma = _quantise(chroma, _scaled_steps(CHROMA_STEPS, quality).repeat(2, 1))
    if half_chroma:
        chroma = _upsample(chroma)
    blue, red = chroma.chunk(2)
    top, left = shift
    planes = torch.stack((luma + 128, blue, red), 3)[:, top : top + height, left : left + width]
    return (planes @ matrix(TO_RGB, planes.device).T).round_().clamp_(0, 255).div_(255)


def _block_indices(before: int, length: int, unit: int, device: torch.device) -> Tensor:
    """Indices that fill whole blocks, with `before` of them ahead of the first: borders are repeated."""
    padded = math.ceil((before + length) / unit) * unit
    return (torch.arange(padded, device=device) - before).clamp_(0, length - 1)


def _quantise(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (N, H, W), centred on zero, with all coefficients rounded to multiples of steps (N, 64)."""
    count, height, width = planes.shape
    blocks = planes.view(count, height // 8, 8, width // 8, 8).transpose(2, 3).reshape(count, -1, 64)
    transform = _cosine_transform(planes)
    steps = steps[:, None]
    blocks = (blocks @ transform.T).div_(steps).round_().mul_(steps) @ transform
    planes = blocks.view(count, height // 8, width // 8, 8, 8).transpose(2, 3).reshape(count, height, width)
    return planes.round_().clamp_(-128, 127)


def _cosine_transform(like: Tensor) -> Tensor:
    """The cosine transform of 8x8 pixels, row by row, as one 64x64 orthonormal matrix (T.81, A.3.3)."""
    place = torch.arange(8, device=like.device, dtype=like.dtype)
    waves = (place[:, None] * (2 * place + 1) * (math.pi / 16)).cos() / 2
    waves[0] *= 0.5**0.5
    return torch.kron(waves, waves)


def _scaled_steps(table: tuple[int, ...], quality: Tensor) -> Tensor:
    """The steps of a table at qualities (N,), scaled as in libjpeg: (N, 64)."""
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = torch.tensor(table).to(quality.device, non_blocking=True)
    return ((steps * percent[:, None] + 50) / 100).floor_().clamp_(1, 255)


def _downsample(planes: Tensor) -> Tensor:
    """(N, H, W) -> (N, H/2, W/2): means of four pixels. Halves are rounded down and up in turn along a row."""
    count, height, width = planes.shape
    total = planes.view(count, height // 2, 2, width // 2, 2).sum((2, 4))
    return (total + 1 + torch.arange(width // 2, device=planes.device) % 2).div_(4).floor_()


def _upsample(planes: Tensor) -> Tensor:
    """(N, H, W) -> (N, 2H, 2W): linear interpolation, 3/4 of the nearer pixel and 1/4 of the farther."""
    for axis in (1, 2):
        last = planes.shape[axis] - 1
        order = torch.arange(last + 1, device=planes.device)
        before, after = (planes.index_select(axis, (order + way).clamp_(0, last)) for way in (-1, 1))
        near = 3 * planes
        planes = torch.stack((near + before, near + after), axis + 1).div_(4).flatten(axis, axis + 1)
    return planes


def matrix(rows: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """Rows of numbers as a tensor on a device, copied without synchronising."""
    return torch.tensor(rows).to(device, non_blocking=True)
