"""Mosaic denoising: removes noise from a camera's raw values before they are developed, where it is white.

Developing interpolates the missing colours. This blurs the noise and mixes the colours' noise, and networks
remove less of it. No network is trained on mosaics yet, so one for grey images runs on four planes:

1. The generalised Anscombe transform gives each raw value a noise variance of 1.
2. Each cell of 2 x 2 pixels becomes four values: the mean, and three differences. The transform is orthonormal,
   so the noise stays white. The planes of the single colours lie half a pixel apart. A network for colour images
   takes this for colour: 27.7 dB where the noisy mosaic has 37.5.
3. The network runs on each plane: together as many pixels as the image has.
4. Where more was removed than the noise can explain, the network took detail, and less is removed.
5. Part of the noise stays for the network that runs after developing, which removes the rest best if it still
   looks like a camera's noise. It runs without a bound on the change, since what is left is known to be noise.

It runs only if the noise law is known: the file states it, or it is measured with confidence. Values that the
camera companded have no such law. Fine texture hides the law, or looks like noise itself; so a mosaic that holds
more detail than noise stays as it is. Impulses and banding are left to the steps after developing.

Measured over developing and `auto` alone, law measured, in the mean of 24 scenes made of Kodak24: +0.1, +0.7,
+1.4 and +2.1 dB on soft images with 12000, 2000, 400 and 80 electrons at white; 0.0, +0.1, +0.5 and +1.2 dB on
images that are sharp to the pixel, of which none lost anything. With the law stated, soft images with 12000
electrons gain 0.4 dB (8 scenes). With 2000 electrons, fine texture hid the law in 6 of 24 soft scenes and in 11
sharp ones.
Other ways that were tried with 400 electrons, on 4 images with the exact law:
- The whole mosaic through the network for grey, with smooth differences of colour taken off: the error of the raw
  values is 0.2 dB larger on soft images and 0.5 dB smaller on sharp ones. After developing, soft images are
  1.4 dB worse than this way: the error that is left looks like fine colour.
- Both ways averaged, at twice the cost: -0.2 dB on soft images after developing, the same on sharp ones.
- 0.6 and 0.8 in place of REMOVED: -0.1 and +0.05 dB on soft images, 0.0 and -0.05 dB on sharp ones.
"""

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.noise.anscombe import Anscombe, NoiseLaw
from engine.defaults import MEMORY_BUDGET
from engine.imageio.codecs.raw import RawMosaic
from engine.inference.denoise import OutputOptions
from engine.inference.grain import local_mean
from engine.inference.model_selection import LoadedModel
from engine.inference.noise_estimation.blocks import tiles_of
from engine.inference.noise_estimation.config import DEFAULT_CONFIG
from engine.inference.noise_estimation.noise_law import estimate_law
from engine.inference.noise_estimation.value_range import range_of
from engine.inference.noise_estimation.words import figure
from engine.inference.preparation import PreparationOptions
from engine.inference.tiling import Window, run_batch, windows_of
from engine.layers import Module, ensure_arena

# The model that runs on the planes.
MOSAIC_MODEL = "photo-grey"
# The model for the image that is then developed. `auto` takes what is left of the noise for white here and there.
DEVELOPED_MODEL = "photo"
# Share of the noise that is removed before developing.
REMOVED = 0.7
# Side, in cells, of the neighbourhood in which the removed power is compared with that of the noise.
NEIGHBOURHOOD = 15
# Power removed from a neighbourhood from which it counts as detailed; that of the noise is 1.
DETAIL_POWER = 1.3
# Median power that differs from cell to cell in the first plane of differences, from which a mosaic is left
# alone. Soft scenes have 0.7 to 1.4. Sharp ones with 12000 electrons have more than 1.5, and there a measured law
# may be of fine texture: up to 16 times too large, which alone cost 3.9 dB.
MAX_ROUGHNESS = 1.5
# Detailed share of the three planes of differences, from which a mosaic is left alone. With 12000 electrons,
# sharp scenes have 0.60 to 1 and lose up to 1.8 dB; soft ones have at most 0.08 and gain 0.4 dB.
MAX_DETAILED = 0.55
# Smaller mosaics, in pixels a side, are left alone.
MIN_SIDE = 32
# The law of smaller mosaics is not measured. In crops of 256 x 256 of sharp scenes with 12000 electrons it was 3
# to 16 times too large in 7 of 16, as calm as others.
MIN_MEASURED_PIXELS = 2**17
# Of a measured law: how far the gain may lie from the ends of its interval, as a share of the gain.
MAX_GAIN_ERROR = 0.5
# A measured line must not lie below 0 at black, by more than this share of the variance at white. Fine texture in
# bright places makes the line too steep: then it does. On 8 scenes of Kodak24, gains of lines above are at most
# 2.2 times too large, those of lines below 1.5 to 280 times.
MAX_BELOW_ZERO = 0.015
# Least standard deviation of the noise at white, as a share of the range from black to white: at most 16,000
# electrons. With less noise, a measured law is of fine texture.
MIN_NOISE = 0.008
# Variance of rounding to whole numbers, the least that raw values have.
ROUNDING = 1 / 12
# Values at the highest value count as saturated if they are at least this share of all.
SATURATED_SHARE = 1e-4
# How far below saturation a saturated pixel may come out, in standard deviations of the noise, to be set to it.
SATURATION_MARGIN = 0.25
# Red, green, blue and the second green of a pattern -> the colour in a noise profile.
PROFILE_COLOURS = (0, 1, 2, 1)
# Orthonormal, from the four values of a cell: their mean (doubled), green less red and blue, red less blue, and
# the difference of the greens. The rows are for a cell whose first and last pixels are not green.
CELL_TRANSFORM = torch.tensor(
    [
        [0.5, 0.5, 0.5, 0.5],
        [-0.5, 0.5, 0.5, -0.5],
        [0.5**0.5, 0.0, 0.0, -(0.5**0.5)],
        [0.0, 0.5**0.5, -(0.5**0.5), 0.0],
    ]
)
GREENS = (1, 3)


@dataclass(frozen=True)
class MosaicLaw:
    """The noise of raw values. laws: of each pixel of a cell, row by row. stated: by the file, not measured."""

    laws: tuple[NoiseLaw, ...]
    stated: bool

    @property
    def words(self) -> str:
        """What is done, for people. The values are of the first green."""
        law = self.laws[1]
        source = "stated" if self.stated else "measured"
        return (
            f"mosaic denoised before developing ({source} gain {figure(law.gain)}, "
            f"read noise {figure(law.read_variance**0.5)})"
        )


@dataclass(frozen=True)
class MosaicNets:
    """The networks for a mosaic, and for the image that is developed from the denoised mosaic."""

    mosaic: Module
    developed: Module


def mosaic_nets(model: LoadedModel) -> MosaicNets | None:
    """The networks, if the model has both: `auto` and the like do."""
    if MOSAIC_MODEL in model.nets and DEVELOPED_MODEL in model.nets:
        return MosaicNets(model.nets[MOSAIC_MODEL], model.nets[DEVELOPED_MODEL])
    return None


def requested_share(output: OutputOptions, preparation: PreparationOptions) -> float:
    """Share of the noise that the options let be removed from a mosaic; 0 leaves it as it is.

    Differences from the noisy image are shown against the developed file, so its mosaic stays as it is. Grain
    that the result keeps must stay in the mosaic.
    """
    share = min(output.shares) * (1 - output.grain)
    return share if preparation.normalise and output.output == "clean" else 0.0


def steps_after_mosaic(steps: PreparationOptions) -> PreparationOptions:
    """The steps for the developed image. Noise was left for its network, so its change is not bounded."""
    return replace(steps, force=True)


def law_of(mosaic: RawMosaic) -> MosaicLaw | None:
    """The noise law as the file states it, or as it is measured; None if it is not known for certain."""
    if min(mosaic.values.shape) < MIN_SIDE:
        return None
    colours = [colour for row in mosaic.pattern for colour in row]
    blacks = [float(mosaic.black[colour]) for colour in colours]
    return _stated_law(mosaic, colours, blacks) or _measured_law(mosaic, blacks)


def _stated_law(mosaic: RawMosaic, colours: list[int], blacks: list[float]) -> MosaicLaw | None:
    profile = mosaic.noise_profile
    if not profile or len(profile) not in (1, 3):
        return None
    pairs = [profile[PROFILE_COLOURS[colour] if len(profile) > 1 else 0] for colour in colours]
    spans = [mosaic.white - black for black in blacks]
    if min(spans) <= 0 or min(scale for scale, _ in pairs) <= 0:
        return None
    return MosaicLaw(
        tuple(
            NoiseLaw(scale * span, black, max(offset * span**2, ROUNDING))
            for (scale, offset), span, black in zip(pairs, spans, blacks, strict=True)
        ),
        stated=True,
    )


def _measured_law(mosaic: RawMosaic, blacks: list[float]) -> MosaicLaw | None:
    """One line for all colours, which share gain and read noise: more brightnesses make it certain."""
    if mosaic.values.size < MIN_MEASURED_PIXELS:
        return None
    planes = _planes(_even(mosaic.values))
    centred = torch.stack([plane - black for plane, black in zip(planes, blacks, strict=True)], 2)
    tiles = tiles_of(centred, DEFAULT_CONFIG)
    (estimate,) = estimate_law(torch.cat(tiles.unbind(3)).unsqueeze(3))
    if estimate is None:
        return None
    law, span = estimate.law, mosaic.white - min(blacks)
    at_black = law.read_variance - law.gain * law.pedestal
    is_certain = estimate.gain.low > (1 - MAX_GAIN_ERROR) * law.gain > 0
    is_line = at_black >= -MAX_BELOW_ZERO * law.gain * span
    if not (is_certain and is_line and law.gain * span >= (MIN_NOISE * span) ** 2):
        return None
    read_variance = max(at_black, ROUNDING)
    return MosaicLaw(tuple(NoiseLaw(law.gain, black, read_variance) for black in blacks), stated=False)


class MosaicDenoiser:
    """A mosaic that is denoised window by window. Run each of `windows` once, then call `result`.

    net: for grey images. share: of the noise that is removed in all, from 0 to 1; see OutputOptions.
    """

    def __init__(
        self,
        net: Module,
        mosaic: RawMosaic,
        law: MosaicLaw,
        share: float = 1.0,
        memory_budget: int = MEMORY_BUDGET,
    ) -> None:
        self._mosaic = mosaic
        self._share = REMOVED * share
        self._transforms = [Anscombe(each) for each in law.laws]
        matrix = CELL_TRANSFORM
        if mosaic.pattern[0][0] in GREENS:
            # The greens lie on the other diagonal.
            matrix = matrix[:, [1, 0, 3, 2]]
        self._matrix = matrix
        planes = _planes(_even(mosaic.values))
        stable = torch.stack(
            [transform.forward(plane) for transform, plane in zip(self._transforms, planes, strict=True)]
        )
        self._noisy = torch.tensordot(matrix, stable, 1)
        self._clean = torch.empty_like(self._noisy)
        self.windows: list[Window] = []
        ends = [range_of(tiles_of(plane.unsqueeze(2), DEFAULT_CONFIG)) for plane in self._noisy]
        # Differences have little range of their own. Stretched to the network's, they would be noise alone.
        span = max(high - low for low, high in ends)
        self._is_rough = _roughness(self._noisy[1]) > MAX_ROUGHNESS
        if span > 0 and self._share > 0 and not self._is_rough:
            for (low, _), noisy, clean in zip(ends, self._noisy, self._clean, strict=True):
                # Not methods: a window must not refer to this object in a circle.
                read = partial(_read_plane, low, span)
                write = partial(_write_plane, clean, low, span)
                self.windows += windows_of(net, noisy.unsqueeze(2), read, write, memory_budget, None)

    def result(self) -> NDArray[np.uint16] | None:
        """The denoised values, as RawMosaic.values; None if they hold more detail than the network keeps.

        Call it once: it overwrites what it works on.
        """
        values = self._mosaic.values
        if self._is_rough:
            return None
        if not self.windows:
            return values.copy()
        detailed = []
        for noisy, clean in zip(self._noisy, self._clean, strict=True):
            removed = noisy - clean
            power = local_mean(removed.square(), NEIGHBOURHOOD)
            detailed.append((power > DETAIL_POWER).float().mean().item())
            # The noise has the power 1. Of what was removed, that share is noise; the rest is detail.
            noisy -= removed.div_(power.clamp_(min=1)).mul_(self._share)
        if fmean(detailed[1:]) > MAX_DETAILED:
            return None
        stable = torch.tensordot(self._matrix.T, self._noisy, 1)
        height, width = values.shape
        even = _even(values)
        saturation = _saturation(values, self._mosaic.white)
        for number, transform in enumerate(self._transforms):
            rows, columns = slice(number // 2, None, 2), slice(number % 2, None, 2)
            noisy_plane = even[rows, columns].astype(np.float32)
            plane = transform.inverse(stable[number]).numpy()
            # The noisy mean has no bias.
            plane += noisy_plane.mean(dtype=np.float64) - plane.mean(dtype=np.float64)
            # Single saturated values may be noise, where the light is a little less.
            sigma = (transform.law.gain * max(saturation - transform.law.pedestal, 0)) ** 0.5
            is_close = plane >= saturation - SATURATION_MARGIN * sigma
            is_saturated = noisy_plane >= saturation
            is_saturated &= is_close | _in_areas(is_saturated)
            np.maximum(plane, saturation, out=plane, where=is_saturated)
            np.clip(np.rint(plane, out=plane), 0, max(self._mosaic.white, int(values.max())), out=plane)
            even[rows, columns] = plane.astype(np.uint16)
        return even[:height, :width]


def denoise_mosaic(
    net: Module, mosaic: RawMosaic, law: MosaicLaw, share: float = 1.0, memory_budget: int = MEMORY_BUDGET
) -> NDArray[np.uint16] | None:
    """The denoised values of a mosaic or None, one window after another; see MosaicDenoiser."""
    denoiser = MosaicDenoiser(net, mosaic, law, share, memory_budget)
    with ensure_arena():
        for window in denoiser.windows:
            run_batch([window])
    return denoiser.result()


def _even(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """A copy with whole cells: an odd last row or column is mirrored, which keeps the colours in place."""
    height, width = values.shape
    return np.pad(values, ((0, height % 2), (0, width % 2)), mode="reflect")


def _planes(values: NDArray[np.uint16]) -> list[Tensor]:
    """(2h, 2w) -> four times float32 (h, w): each pixel of the cells."""
    return [
        torch.from_numpy(values[row::2, column::2].astype(np.float32)) for row in range(2) for column in range(2)
    ]


def _read_plane(low: float, span: float, part: Tensor) -> Tensor:
    return ((part - low) / span).expand(-1, -1, 3)


def _write_plane(
    clean: Tensor, low: float, span: float, rows: slice, columns: slice, after: Tensor, before: Tensor
) -> None:
    clean[rows, columns] = after.cpu().float().mean(2) * span + low


def _roughness(plane: Tensor) -> float:
    """The median over neighbourhoods of what differs from pixel to pixel both along and across; 1 for noise."""
    top, bottom = plane[:-1], plane[1:]
    differences = (bottom[:, 1:] - bottom[:, :-1] - top[:, 1:] + top[:, :-1]) / 2
    return float(local_mean(differences.square(), NEIGHBOURHOOD).median())


def _in_areas(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a pixel lies in 3 x 3 pixels that are all in the mask."""
    outside = torch.from_numpy(~mask).float()
    inside = (local_mean(outside, 3) == 0).float()
    return (local_mean(inside, 3) > 0).numpy()


def _saturation(values: NDArray[np.uint16], white: int) -> int:
    """The value from which pixels are saturated; they stay saturated, so that highlights keep their colour."""
    top = int(values.max())
    is_saturated = np.count_nonzero(values == top) >= SATURATED_SHARE * values.size
    return min(top, white) if is_saturated else white
