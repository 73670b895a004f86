"""Blocks of an image: the tiles that are looked at, their blocks, and the flattest of these."""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from engine.inference.noise_estimation.config import EstimatorConfig

# Pixels a side. Small ones have the size of the cosine transform; large ones hold pixels with independent noise.
SMALL_BLOCK = 8
LARGE_BLOCK = 16


def tiles_of(image: Tensor, config: EstimatorConfig) -> Tensor:
    """(H, W, C) -> (T, h, w, C): the image, or tiles spread over it that begin on JPEG's grid."""
    height, width = image.shape[:2]
    if height * width <= config.max_pixels:
        return image.unsqueeze(0)
    tile_height, tile_width = min(config.tile_side, height), min(config.tile_side, width)
    most = config.max_pixels // (tile_height * tile_width)
    down = min(max(round((most * height / width) ** 0.5), 1), height // tile_height, most)
    across = min(most // down, width // tile_width)
    corners = product(_spread(height - tile_height, down), _spread(width - tile_width, across))
    return torch.stack([image[top : top + tile_height, left : left + tile_width] for top, left in corners])


def _spread(last: int, count: int) -> list[int]:
    """So many multiples of 8, spread evenly from 0 to `last`."""
    return [last * i // max(count - 1, 1) // 8 * 8 for i in range(count)]


@dataclass(frozen=True)
class Blocks:
    """Blocks of one size that overlap by half, without those that are constant or clipped too much. N of them.

    pixels: (T, rows, columns, C, side, side), a view of the tiles.
    limits: black and white, where the image may be clipped; otherwise infinite.
    index: (N,) position among all blocks of all tiles.
    roughness: (N,) variance of the means of 2 x 2 pixels, mean over channels.
    brightness: (N,) mean over pixels and channels.
    """

    config: EstimatorConfig
    pixels: Tensor
    limits: tuple[float, float]
    index: Tensor
    roughness: Tensor
    brightness: Tensor

    def flattest(self, share: float, bins: int = 1) -> tuple[Tensor, Tensor]:
        """(bins, K): the flattest share of the blocks in each bin of brightness, and which of them are flat.

        The flattest come first. If there are too many, some are left out evenly.
        """
        config = self.config
        size = len(self.index) // bins
        order = self.brightness.argsort() if bins > 1 else torch.arange(size)
        members = order[: bins * size].view(bins, size)
        least, most = (
            min(max(config.min_blocks, int(part * size)), size) for part in (config.flattest_share, share)
        )
        roughness, which = self.roughness[members].topk(most, largest=False)
        flat = roughness <= config.max_roughness_ratio * roughness[:, :least].mean(1, keepdim=True)
        step = math.ceil(bins * most * self.pixels.shape[-1] ** 2 / config.max_measured_pixels)
        return members.gather(1, which)[:, ::step], flat[:, ::step]

    def pixels_of(self, which: Tensor) -> Tensor:
        """(K,) -> (K, C, side, side)."""
        _, rows, columns = self.pixels.shape[:3]
        index = self.index[which]
        return self.pixels[index // (rows * columns), index // columns % rows, index % columns]

    def planes(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """(K,) -> (K, P, side, side) planes, and (K, P) the share of variance that clipping has left in them.

        P is 1 for grey. For colour it is 7: the channels, luma, which is their mean, and the difference of each
        channel from luma. The slope of luma is subtracted from all but the differences: the fall of light over a
        flat surface is not noise.
        """
        x = self.pixels_of(which)
        left = _left_by_clipping(clipped(x, self.limits).mean((2, 3)))
        luma = x.mean(1, keepdim=True)
        slope = _slope(luma)
        if x.shape[1] == 1:
            return x - slope, left
        left = torch.cat((left, left.mean(1, keepdim=True).expand(-1, 4)), 1)
        return torch.cat((x - slope, luma - slope, x - luma), 1), left

    def flat_share(self) -> float:
        """The share of all blocks that are about as rough as the flattest."""
        tiles, rows, columns = self.pixels.shape[:3]
        which, _ = self.flattest(self.config.flattest_share)
        most = self.config.flat_roughness_ratio * self.roughness[which].mean()
        return float((self.roughness <= most).sum()) / (tiles * rows * columns)


def luma_and_chroma(planes: Tensor) -> Tensor:
    """(P,) -> (1,) luma for grey, or (2,) luma and the mean of chroma's three planes."""
    return planes if len(planes) == 1 else torch.stack((planes[3], planes[4:].mean()))


def blocks_of(tiles: Tensor, config: EstimatorConfig) -> tuple[Blocks, Blocks]:
    """The tiles' small and large blocks."""
    low, high = (float(x) for x in tiles.aminmax())
    limits = (0.0 if low >= 0 else -math.inf, 1.0 if high <= 1 else math.inf)
    # Centred on 0: squares of larger values would cost float32 the digits that count.
    halves = _halved(tiles) - 0.5
    parts = [halves, halves.square()]
    if low == limits[0] or high == limits[1]:
        parts.append(_halved(clipped(tiles, limits)).mean(3, keepdim=True))
    # Cells of half a block's side. A block is 2 x 2 of them.
    cells = _halved(torch.cat(parts, 3))
    return (
        _from_cells(tiles, cells, limits, SMALL_BLOCK, config),
        _from_cells(tiles, _halved(cells), limits, LARGE_BLOCK, config),
    )


def _from_cells(
    tiles: Tensor, cells: Tensor, limits: tuple[float, float], side: int, config: EstimatorConfig
) -> Blocks:
    """cells: (T, rows, columns, means and mean squares of the channels, and the clipped share, if any)."""
    rows = cells[:, 1:] + cells[:, :-1]
    blocks = (rows[:, :, 1:] + rows[:, :, :-1]).flatten(0, 2) / 4
    channels = tiles.shape[3]
    mean, square = blocks[:, :channels], blocks[:, channels : 2 * channels]
    share = blocks[:, 2 * channels :].sum(1)
    roughness = (square - mean.square()).mean(1) / _left_by_clipping(share)
    usable = (roughness > config.min_roughness) & (share <= config.max_clipped_share)
    index = usable.nonzero().squeeze(1)
    pixels = tiles.unfold(1, side, side // 2).unfold(2, side, side // 2)
    return Blocks(config, pixels, limits, index, roughness[index], mean.mean(1)[index] + 0.5)


def _halved(x: Tensor) -> Tensor:
    """(T, h, w, C) -> (T, h // 2, w // 2, C): means of 2 x 2."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    rows = x[:, 0:height:2, :width] + x[:, 1:height:2, :width]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) / 4


def clipped(x: Tensor, limits: tuple[float, float]) -> Tensor:
    """1 for samples at black or white, otherwise 0."""
    return ((x <= limits[0]) | (x >= limits[1])).float()


def _slope(x: Tensor) -> Tensor:
    """(K, 1, side, side): the plane that fits each block best, without its mean."""
    side = x.shape[3]
    ramp = torch.arange(side) - (side - 1) / 2
    ramp = ramp / ramp.square().sum().sqrt()
    down, across = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
    return (down.mT @ ramp).unsqueeze(3) * ramp.unsqueeze(1) + (across @ ramp).unsqueeze(3) * ramp


def _left_by_clipping(share: Tensor) -> Tensor:
    """The share of Gaussian noise's variance that is left after this share of samples was clipped at one end.

    Fitted: for shares of 0.03, 0.1, 0.2, 0.3 and 0.5 it is 0.948, 0.837, 0.694, 0.564 and 0.341.
    """
    return 1 - 1.7 * share + 0.8 * share.square()
