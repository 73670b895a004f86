"""Trial: runs candidate networks on a few windows of an image, where the noise alone does not decide.

Where the noise is white and its variance known, the error that a network leaves can be estimated without the
clean image: Stein's unbiased risk estimate. It needs the network's divergence, which one more run with a small
random change gives.
Sources: Stein, "Estimation of the mean of a multivariate normal distribution", Annals of Statistics 1981; Ramani,
Blu & Unser, "Monte-Carlo SURE", IEEE Transactions on Image Processing 2008.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from engine.data.rng import seeded_generator
from engine.imageio.image import WHITE, to_pixels
from engine.inference.noise_estimation import NoiseEstimate, NoiseLevel
from engine.inference.noise_estimation.windows import block_means
from engine.inference.normalisation import Normalisation
from engine.layers import Module, ensure_arena, parameters

# Side of a window in pixels: a multiple of every network's stride.
SIDE = 128
# Most windows, and the most pixels that they may hold together, as a share of the image.
MAX_WINDOWS = 3
MAX_SHARE = 0.3
# Least variance of the transformed noise, mean over the windows. Less is noise of a few photons without read
# noise. It is not Gaussian, so the estimate does not hold.
MIN_EVENNESS = 0.9
# The random change, in standard deviations of the noise: large enough for bfloat16.
STEP = 0.3
# Estimated error of weights over that of the shipped ones, up to which they may take their place. Measured on 24
# shots of 300 x 300: it is within 0.05 of the true ratio for weights that are alike, and 1.07 to 1.8 for a
# network that leaves 1.2 to 1.4 times the error.
MAX_RISK = 1.05

# Side, in pixels, of the blocks that are compared, and the share of them that counts as calm.
BLOCK = 16
CALM_SHARE = 1 / 3


def removed_where_calm(
    net: Module, samples: Tensor, levels: Sequence[NoiseLevel], normalisation: Normalisation | None = None
) -> float | None:
    """What a network removes where its output is calm, as a share of the noise there. None for a small image.

    Noise is everywhere, and texture is not. So what is removed from the calmest parts tells one from the other.
    samples: (H, W, C), as an Image has them. levels: their noise, from dark to bright. normalisation: of an image
    that is no photograph, without transforms.
    """
    corners = _corners(samples)
    if not corners or not levels:
        return None
    pixels = _windows_at(samples, normalisation, corners)
    black, scale = 0.0, 1.0
    if normalisation is not None:
        white = WHITE[samples.dtype]
        black, scale = float(normalisation.low[0]) / white, normalisation.span / white
    device = next(parameters(net)).value.device
    with ensure_arena():
        output = net.forward(pixels.to(device)).float().cpu()
    removed = block_means((pixels - output).square().mean(3), BLOCK, BLOCK).flatten()
    luma = output.mean(3)
    mean = block_means(luma, BLOCK, BLOCK)
    activity = (block_means(luma.square(), BLOCK, BLOCK) - mean.square()).flatten()
    calm = activity.argsort()[: max(int(CALM_SHARE * len(activity)), 1)]
    sigma = np.interp(
        255 * (black + scale * mean.flatten()[calm]),
        [each.brightness for each in levels],
        [each.sigma for each in levels],
    )
    expected = float(np.square(sigma).mean())
    return 255 * scale * float(removed[calm].mean().sqrt()) / expected**0.5 if expected else None


def least_risk(nets: Mapping[str, Module], samples: Tensor, normalisation: Normalisation) -> str:
    """The name of the network with the least estimated error; the first name where it cannot be estimated.

    samples: (H, W, C) of a grey image, as an Image has them. normalisation: makes its noise even.
    """
    windows = _windows(samples, normalisation)
    first = next(iter(nets))
    if len(nets) == 1 or windows is None:
        return first
    if not _is_even(windows[..., :1], normalisation):
        return first
    risks = {name: _risk(net, windows, _Noise.of(normalisation), True) for name, net in nets.items()}
    return min(risks, key=risks.__getitem__)


def may_replace(
    net: Module, shipped: Module, samples: Tensor, normalisation: Normalisation | None, estimate: NoiseEstimate
) -> bool:
    """Whether a network leaves no more error than the shipped one, as far as it can be estimated.

    samples: (H, W, C), as an Image has them, with white noise. normalisation: None for a photograph. estimate: of
    their noise.
    """
    windows = _windows(samples, normalisation)
    if windows is None:
        return True
    if normalisation is not None and normalisation.transforms:
        noise = _Noise.of(normalisation)
        if not _is_even(windows, normalisation):
            return True
    else:
        span = WHITE[samples.dtype] if normalisation is None else normalisation.span
        noise = _Noise.even(estimate.sigma_in_units / span)
    is_grey = estimate.chroma is None
    own, theirs = (_risk(each, windows, noise, is_grey) for each in (net, shipped))
    return theirs <= 0 or own <= MAX_RISK * theirs


def _is_even(windows: Tensor, normalisation: Normalisation) -> bool:
    """Whether the transforms make the noise Gaussian."""
    return float(normalisation.variance(windows).mean()) * normalisation.span**2 >= MIN_EVENNESS


def _windows(samples: Tensor, normalisation: Normalisation | None) -> Tensor | None:
    """(N, SIDE, SIDE, 3): normalised windows; None if the image is too small."""
    corners = _corners(samples)
    return _windows_at(samples, normalisation, corners) if corners else None


def _corners(samples: Tensor) -> list[tuple[int, int]]:
    """Top and left of windows, from the one that varies most to the one that varies least."""
    height, width = samples.shape[:2]
    rows, cols = height // SIDE, width // SIDE
    count = min(MAX_WINDOWS, rows * cols, int(MAX_SHARE * height * width / SIDE**2))
    if count < 1:
        return []
    # Every fourth pixel tells how much a window varies.
    sparse = samples[: rows * SIDE : 4, : cols * SIDE : 4].float() / WHITE[samples.dtype]
    cells = sparse.view(rows, SIDE // 4, cols, SIDE // 4, -1).transpose(1, 2).flatten(0, 1)
    order = cells.flatten(1).var(1).argsort(descending=True)
    chosen = order[:: max(len(order) // count, 1)][:count].tolist()
    return [(SIDE * (index // cols), SIDE * (index % cols)) for index in chosen]


def _windows_at(samples: Tensor, normalisation: Normalisation | None, corners: list[tuple[int, int]]) -> Tensor:
    to_network = normalisation.forward if normalisation else to_pixels
    parts = [to_network(samples[top : top + SIDE, left : left + SIDE]) for top, left in corners]
    return torch.stack(parts).expand(-1, -1, -1, 3).contiguous()


@dataclass(frozen=True)
class _Noise:
    """White noise of normalised pixels. sigma: about. variance: by their expected values (N, H, W, C)."""

    sigma: float
    variance: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, normalisation: Normalisation) -> "_Noise":
        """Noise that transforms have made even."""
        return cls(1 / normalisation.span, normalisation.variance)

    @classmethod
    def even(cls, sigma: float) -> "_Noise":
        """Noise of one level."""
        return cls(sigma, partial(torch.full_like, fill_value=sigma**2))


def _risk(net: Module, windows: Tensor, noise: _Noise, is_grey: bool) -> float:
    """The estimated mean squared error of the network's output."""
    device = next(parameters(net)).value.device
    rng = seeded_generator(0)
    # The same for all channels of a grey image, as its noise is.
    shape = (*windows.shape[:3], 1 if is_grey else 3)
    change = torch.randint(0, 2, shape, generator=rng).float() * 2 - 1
    with ensure_arena():
        output, changed = (
            net.forward(each.to(device)).float().cpu()
            for each in (windows, windows + STEP * noise.sigma * change)
        )
    if is_grey:
        # Of a grey image, the mean of the channels is kept.
        windows, output, changed = (each.mean(3, keepdim=True) for each in (windows, output, changed))
    variance = noise.variance(output)
    response = change * (changed - output) / (STEP * noise.sigma)
    return float(((windows - output).square() - variance + 2 * variance * response).mean())
