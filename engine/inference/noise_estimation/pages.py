"""Pages of a file: the page whose noise stands for all, and the noise law of a stack of frames."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from engine.inference.noise_estimation.blocks import tiles_of
from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig
from engine.inference.noise_estimation.estimate import NoiseEstimate
from engine.inference.noise_estimation.estimator import with_laws
from engine.inference.noise_estimation.graphics import graphics_kind
from engine.inference.noise_estimation.law_of_channels import laws_of_channels
from engine.inference.noise_estimation.law_of_stack import GROUP, MAX_GROUPS, estimate_law_of_stack
from engine.inference.noise_estimation.value_range import is_even, only_channel

# Pixels of a frame that are looked at.
FRAME_PIXELS = 2**18


def typical_page(pages: Sequence[Tensor]) -> Tensor:
    """The first page that is not drawn or blank, or the first page. No noise can be measured in the others."""
    if len(pages) == 1:
        return pages[0]
    return next((page for page in pages if not _is_even(page) and not graphics_kind(page)), pages[0])


def with_law_of_stack(
    estimate: NoiseEstimate, pages: Sequence[Tensor], config: EstimatorConfig = DEFAULT_CONFIG
) -> NoiseEstimate:
    """The estimate of a page, with the noise law measured over all pages, if they are frames of one scene.

    pages: (H, W, C), as an Image has them. The estimate comes back as it is where the pages differ in size or
    type, or no law is found between them.
    """
    kinds = {(page.shape, page.dtype) for page in pages}
    if len(pages) < 2 or len(kinds) > 1 or estimate.drawn or estimate.jpeg_blocks:
        return estimate
    channel = only_channel(typical_page(pages))
    used = slice(None) if channel is None else slice(channel, channel + 1)
    frames = [_looked_at(page[..., used], config) for page in _groups(pages)]
    # The first frame may be blank, and then has nothing to measure.
    tiles = _looked_at(typical_page(pages)[..., used], config).unsqueeze(0)
    laws = laws_of_channels(estimate_law_of_stack(frames), tiles)
    return with_laws(estimate, laws[:1] if estimate.chroma is None else laws, tiles, config)


def sampled_pages(count: int) -> list[int]:
    """The pages of a long stack that stand for all of its `count` pages, counted from 0.

    The noise law of these pages is that of the whole stack, as `with_law_of_stack` measures it.
    """
    return list(range(count)) if count < MAX_GROUPS * GROUP else _grouped(count)


def _groups(pages: Sequence[Tensor]) -> list[Tensor]:
    """Successive pages in a few groups, spread evenly."""
    return [pages[number] for number in _grouped(len(pages))]


def _grouped(count: int) -> list[int]:
    groups = min(MAX_GROUPS, count // GROUP)
    if groups < 2:
        return list(range(min(GROUP, count)))
    last = count - GROUP
    starts = [last * index // (groups - 1) for index in range(groups)]
    return [start + step for start in starts for step in range(GROUP)]


def _looked_at(page: Tensor, config: EstimatorConfig) -> Tensor:
    """(H', W', C) floats: the page, or tiles of it, one below the other."""
    tiles = tiles_of(page, replace(config, max_pixels=FRAME_PIXELS))
    return tiles.flatten(0, 1).float()


def _is_even(page: Tensor) -> bool:
    return is_even(tiles_of(page, DEFAULT_CONFIG))
