"""What noise is in an image, judged from that image alone: level, correlation, law against brightness.

Photographs have parts without detail, and what varies there is noise. These parts are the small blocks that
vary least at low frequencies. White noise is the same at all frequencies, so it is read at the highest ones: they
have least of the image, and had no say in the choice. Correlated noise is read from differences of pixels so
far apart that their noise is independent.
Sources: Ponomarenko et al., "An automatic approach to lossy compression of AVIRIS images", IGARSS 2007, and Colom
& Buades, "Analysis and extension of the Ponomarenko et al. method", IPOL 2013 (blocks in the order of their low
frequencies, noise from the high ones, bins of brightness); Colom, Lebrun, Buades & Morel, "A non-parametric
approach for the estimation of intensity-frequency dependent noise", ICIP 2014 (correlated noise).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.imageio.image import LUMA, to_pixels

Kind = Literal["white", "camera"]

# Larger images are looked at in tiles of TILE a side, spread evenly, that hold no more pixels than this.
MOST_PIXELS, TILE = 2**20, 128
# Sides of blocks: for noise read at high frequencies, and for noise that hangs together over many pixels.
SMALL, LARGE = 8, 16
# Blocks are parted by brightness into up to BINS bins. Of each the flattest share is looked at, at least so many;
# and a larger share, as far as it is at most so much rougher: of correlated noise, the flattest blocks are those
# that happen to have least of it. Of these, no more are measured than have so many pixels.
BINS, FLATTEST, LEAST_BLOCKS = 8, 0.02, 16
WHITE_SHARE, COLOUR_SHARE, CORRELATED_SHARE, ROUGHER = 0.04, 0.05, 0.3, 1.5
MOST_MEASURED = 2**16
# Blocks are constant, so not photographed, whose means of 2 x 2 pixels have less variance: 0.044 of 255, squared.
CONSTANT = 3e-8
# Blocks with a larger share of samples at black or white are not looked at.
MOST_CLIPPED = 0.55
# Blocks with more than this, for the median of their bin's variances, have fine texture, and are left out.
OUTLIER = 2.5
# Bins have flat parts if the variances of their blocks spread, squared and relative, no more than those of the
# evenest bin do, times this. White noise is also known by its roughness for its variance, which is 0.09 in the
# flattest blocks of grey and 0.14 in those of colour; texture that is fine has less than FINE, and other texture
# more than the smoothest bin, times STILL_FLAT.
STILL_ALIKE, FINE, STILL_FLAT = 2.5, 0.065, 1.2
# Noise is white from this on, in its variance at high frequencies for that at middle ones. Measured on BSD400, σ
# 15 to 50: chroma of white noise has 0.98 and more, of cameras' 0.5 and less; white noise of grey 0.89 and more.
WHITE = 0.65
# With less than this for luma's variance, what the channels differ by is rounding, and tells nothing.
LEAST_CHROMA = 0.001
# Sums of the two frequencies of 8 x 8 blocks, of 0 to 7, that are middle, high, and highest ones.
MIDDLE, HIGH, HIGHEST = (4, 6), (9, 14), (10, 14)
# JPEG's steps, 0-255 scale: any up to 26 is one of these or a multiple, and multiples of it are multiples of
# these. Frequencies as above that are looked at, in so many blocks of each of the 64 ways they may lie.
STEPS, LOW, COMB_BLOCKS = (2, 3, 4, 5, 7, 11, 13, 17, 19, 23), (1, 4), 512
# A comb is told by COMBED frequencies in which it stands out by so many standard deviations, and twice as far as
# in most of the 64 ways: drawings have few values and so combs in all. Measured on Kodak24, and CBSD68 which were
# JPEG files once, with noise of 0, 5, 15 and 30 before: of 368 files each, all of quality 85 and less are told
# and all but one of 90 and 95; none of 98, whose steps are 1, and none of 300 images that are no JPEG files.
COMBED, STANDS_OUT = 3, 5.0
# Histograms of coefficients have so many bins for each step of 1, up to so large a coefficient. With fewer than
# so many coefficients nothing is told.
BINS_A_STEP, LARGEST_COEFFICIENT, LEAST_COEFFICIENTS = 4, 256, 30
# Less noise than this, 0-255 scale, is not called so: rounding to 8 bits alone makes 0.3.
VISIBLE = 1.0
# Less noise than SLIGHT, of which neighbours share less than SHARED, may be a clean image's texture: 16 of
# Kodak24's clean images look so, and none of PolyU's noisy ones, which share 0.5 and more.
SLIGHT, SHARED = 2.5, 0.4
# Of what a computer drew, the blocks that vary least hold edges. It is told by pixels that are equal to the one
# before, and neither black nor white: at least this share of the flattest blocks', though they vary by more than
# PLAIN, 0-255 scale. Measured: 0.92 and more of screens with text (but black on white cannot be told so); at most
# 0.79 of PolyU's and CBSD68's images.
EQUAL, PLAIN = 0.85, 4.0
# So many pixels apart, noise is taken to be independent.
FAR = (8, 10, 12)


@dataclass(frozen=True)
class Component:
    """Noise of luma, the mean of the channels, or of chroma, which is what each channel differs from it by.

    sigma: standard deviation, 0-255 scale; chroma's is the root mean square over channels. The squares of luma's
    and chroma's together are the mean square of the channels'. correlation: of pixels 1, 2 and 3 apart in a row
    or column; where the image has few flat parts, its texture adds to luma's. whiteness: variance at high
    frequencies for that at middle ones: 1 to 1.2 for white noise, less for correlated noise and for texture.
    """

    sigma: float
    correlation: tuple[float, float, float]
    whiteness: float


@dataclass(frozen=True)
class Level:
    """Noise at one brightness, both on the 0-255 scale; sigma is the root mean square over channels."""

    brightness: float
    sigma: float


@dataclass(frozen=True)
class NoiseEstimate:
    """The noise of an image: standard deviations on the 0-255 scale, before clipping to black and white.

    sigma: of each channel, root mean square over the image. luma, chroma: chroma is None for grey. law: from
    dark to bright, where there are flat parts. correlated: whether neighbouring pixels share noise; in a clean
    image, textures look as if they did. flat: share of the image about as flat as what the estimate rests
    on; where it is little, texture may have been taken for noise. jpeg_blocks: whether the image was coded as
    JPEG does it, in blocks of 8 x 8, and hardly changed since. What a computer drew has sigma 0 and no law. Where
    nothing can be said, in images with a side below 16 pixels or all constant, black or white, sigma, luma,
    chroma and correlated are None, and law is empty.
    """

    sigma: tuple[float, ...] | None = None
    luma: Component | None = None
    chroma: Component | None = None
    law: tuple[Level, ...] = ()
    correlated: bool | None = None
    flat: float = 0.0
    jpeg_blocks: bool = False


def pick(estimate: NoiseEstimate) -> Kind:
    """Which noise an image is to be denoised as: white, or of a camera's pipeline.

    The latter also where nothing can be said; the former where there may be none: what is made for white noise
    leaves a clean image as it is, while fine texture looks like a camera's noise.
    """
    if estimate.sigma is None or estimate.luma is None:
        return "camera"
    may_be_clean = overall(estimate.sigma) < SLIGHT and estimate.luma.correlation[0] < SHARED
    return "white" if may_be_clean or not estimate.correlated else "camera"


def overall(sigma: tuple[float, ...]) -> float:
    """Root mean square of the channels' standard deviations."""
    return math.hypot(*sigma) / math.sqrt(len(sigma))


def in_words(estimate: NoiseEstimate) -> str:
    """In one line, as for a header: "white; sigma 24.9 25.1 24.8; luma correlated 0.01 0.00 0.01"."""
    if estimate.sigma is None or estimate.luma is None:
        return "unknown"
    parts = [pick(estimate), "sigma " + " ".join(f"{sigma:.1f}" for sigma in estimate.sigma)]
    for name, component in (("luma", estimate.luma), ("chroma", estimate.chroma)):
        if component:
            parts.append(f"{name} correlated " + " ".join(f"{part:.2f}" for part in component.correlation))
    return "; ".join(parts + ["JPEG blocks"] * estimate.jpeg_blocks)


def sentence(estimate: NoiseEstimate) -> str:
    """For people: "Noise of about 12.2 of 255, in soft grains of several pixels; compressed as JPEG." """
    if estimate.sigma is None:
        return "Of its noise nothing can be told: it is too small, or all of it is constant, black or white."
    grains = "soft grains of several pixels" if estimate.correlated else "fine grains of single pixels"
    if not any(estimate.sigma):
        return "No noise: a computer drew this, it seems."
    told = f"Noise of about {overall(estimate.sigma):.1f} of 255, in {grains}"
    if overall(estimate.sigma) < VISIBLE:
        told = f"Hardly any noise, about {overall(estimate.sigma):.1f} of 255"
    return f"{told}; compressed as JPEG." if estimate.jpeg_blocks else f"{told}."


def estimate_noise(image: Tensor) -> NoiseEstimate:
    """The noise of one image; the same each time.

    image: float32 (H, W, C) on [0, 1], C 1 or 3, of any size; noise may reach beyond [0, 1]. Or uint8 or
    uint16, as an Image's samples are. Three equal channels are one grey image. At most a megapixel is looked
    at, spread over the image. Raises ValueError for another shape, and for NaN or infinite values among what is
    looked at.
    """
    if image.dim() != 3 or image.shape[2] not in (1, 3) or not image.numel():
        raise ValueError(f"an image is (H, W, 1) or (H, W, 3); got {tuple(image.shape)}")
    tiles = _tiles(image)
    if not tiles.is_floating_point():
        tiles = to_pixels(tiles.flatten(0, 1)).view(*tiles.shape[:3], -1)
    lowest, highest = (float(x) for x in tiles.aminmax())
    if not math.isfinite(highest - lowest):
        raise ValueError("the image has values that are NaN or infinite")
    if torch.equal(tiles, tiles[..., :1].expand_as(tiles)):
        tiles = tiles[..., :1].contiguous()
    if min(tiles.shape[1:3]) < LARGE:
        return NoiseEstimate()
    jpeg_blocks = _jpeg_blocks(tiles)
    small, large = _blocks(tiles)
    if not len(small.place) or not len(large.place):
        return NoiseEstimate(jpeg_blocks=jpeg_blocks)
    whiteness, correlated = _colour(small)
    drawn = _equal(small) > EQUAL
    blocks = large if correlated else small
    law, variance = _law(blocks, correlated)
    sigma = [255 * v**0.5 for v in variance.tolist()]
    parts = zip(sigma[-len(whiteness) :], _correlation(large), whiteness, strict=True)
    luma, *chroma = (Component(*part) for part in parts)
    channels = tuple(sigma[:3]) if chroma else (sigma[0],) * image.shape[2]
    if drawn and overall(channels) > PLAIN:
        none = Component(0.0, (0.0, 0.0, 0.0), 1.0)
        channels = (0.0,) * len(channels)
        return NoiseEstimate(channels, none, none if chroma else None, (), False, _flat(blocks), jpeg_blocks)
    return NoiseEstimate(
        channels, luma, chroma[0] if chroma else None, law, correlated, _flat(blocks), jpeg_blocks
    )


@dataclass(frozen=True)
class _Blocks:
    """Blocks of one size, overlapping by half, in which there may be noise to see; N of them."""

    pixels: Tensor  # (T, rows, columns, C, side, side), a view of the tiles
    limits: tuple[float, float]  # black and white, where the image may be clipped
    place: Tensor  # (N,) which of all the blocks of all tiles
    roughness: Tensor  # (N,) variance of the means of 2 x 2 pixels, mean over channels
    brightness: Tensor  # (N,) mean over pixels and channels

    def flattest(self, share: float, bins: int = 1) -> tuple[Tensor, Tensor]:
        """(bins, K): of each bin of brightness, which blocks are its flattest share, and which are truly flat.

        The flattest come first; all are thinned out evenly if they are many.
        """
        size = len(self.place) // bins
        order = self.brightness.argsort() if bins > 1 else torch.arange(size)
        bin_of = order[: bins * size].view(bins, size)
        least, most = (min(max(LEAST_BLOCKS, int(part * size)), size) for part in (FLATTEST, share))
        roughness, which = self.roughness[bin_of].topk(most, largest=False)
        flat = roughness <= ROUGHER * roughness[:, :least].mean(1, keepdim=True)
        step = math.ceil(bins * most * self.pixels.shape[-1] ** 2 / MOST_MEASURED)
        return bin_of.gather(1, which)[:, ::step], flat[:, ::step]

    def planes(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Of K blocks: (K, P, side, side) channels, luma and chroma, and (K, P) what clipping left of variance.

        P is 1 for grey. Else it is 7: the channels, their mean, and what each differs from it by. The slope of
        luma is taken out of all but chroma: light falls off across what is flat.
        """
        _, rows, columns = self.pixels.shape[:3]
        place = self.place[which]
        x = self.pixels[place // (rows * columns), place // columns % rows, place % columns]
        left = _left_by_clipping(_clipped(x, self.limits).mean((2, 3)))
        luma = x.mean(1, keepdim=True)
        slope = _slope(luma)
        if x.shape[1] == 1:
            return x - slope, left
        left = torch.cat((left, left.mean(1, keepdim=True).expand(-1, 4)), 1)
        return torch.cat((x - slope, luma - slope, x - luma), 1), left


def _components(planes: Tensor) -> Tensor:
    """(P,) -> (1 or 2,): luma, and chroma as the mean over its three, if there are."""
    return planes if len(planes) == 1 else torch.stack((planes[3], planes[4:].mean()))


def _law(blocks: _Blocks, correlated: bool) -> tuple[tuple[Level, ...], Tensor]:
    """The law, and the variances over the image of the channels, of luma, and of chroma if there is.

    Bins without flat parts are taken to have the noise of the bin nearest in brightness that has them.
    """
    share, level = (CORRELATED_SHARE, _slow) if correlated else (WHITE_SHARE, _fast)
    bins = min(max(int(FLATTEST * len(blocks.place)) // LEAST_BLOCKS, 1), BINS)
    which, flat = blocks.flattest(share, bins)
    x, left = blocks.planes(which.flatten())
    variance, left = (y.view(*which.shape, -1) for y in (level(x), left))
    each = variance[..., :3].mean(2)
    middle = each.where(flat, math.nan).nanmedian(1, keepdim=True).values
    usual = (flat & (each <= OUTLIER * middle)).float()

    def mean(of_blocks: Tensor) -> Tensor:
        return torch.einsum("bk,bk...->b...", usual / usual.sum(1, keepdim=True), of_blocks)

    usual_variance = mean(each).clamp(min=1e-12)
    spread = mean((each - mean(each).unsqueeze(1)).square()) / usual_variance.square()
    texture = mean(blocks.roughness[which]) / usual_variance
    flat = _evenest(spread) if correlated else _evenest_white(spread, texture)
    brightness, variance = mean(blocks.brightness[which]), mean(variance) / mean(left)
    nearest = (brightness.unsqueeze(1) - brightness[flat]).abs().argmin(1)
    over_image = variance[flat][nearest].mean(0)
    sigma = variance[flat, :3].mean(1).sqrt()
    law = zip((255 * brightness[flat]).tolist(), (255 * sigma).tolist(), strict=True)
    return tuple(Level(*each) for each in law), torch.cat((over_image[:3], _components(over_image)))


def _evenest(spread: Tensor) -> Tensor:
    """Which bins have blocks that are all as noisy."""
    return spread <= STILL_ALIKE * spread.min()


def _evenest_white(spread: Tensor, texture: Tensor) -> Tensor:
    """Likewise, if they are also as rough as white noise is; any, if none are."""
    coarse = texture >= FINE
    if not coarse.any():
        return _evenest(spread)
    even = _evenest(spread.where(coarse, math.inf)) & coarse
    return even & (texture <= STILL_FLAT * texture[even].min())


def _fast(x: Tensor) -> Tensor:
    """(K, P, 8, 8) -> (K, P): variance at the highest frequencies: for white noise, as at all."""
    return (x.flatten(2) @ _cosines(*HIGHEST)).square().mean(2)


def _slow(x: Tensor) -> Tensor:
    """(K, P, 16, 16) -> (K, P): variance of noise that hangs together over a few pixels."""
    return torch.stack([_half_square(x, lag) for lag in FAR]).mean(0)


def _half_square(x: Tensor, lag: int) -> Tensor:
    """(K, P, side, side) -> (K, P): half the mean square of differences of pixels so far apart: the variogram."""
    down, across = x[..., lag:, :] - x[..., :-lag, :], x[..., lag:] - x[..., :-lag]
    return (down.square().mean((2, 3)) + across.square().mean((2, 3))) / 4


def _colour(small: _Blocks) -> tuple[list[float], bool]:
    """Whiteness of luma, and of chroma if there is, and whether the noise is correlated."""
    # All of them, as of those that JPEG left some noise in there may be few.
    which, _ = small.flattest(COLOUR_SHARE)
    x, _ = small.planes(which.flatten())
    bands = ((x.flatten(2) @ _cosines(*band)).square() for band in (MIDDLE, HIGH))
    middle, high = (_components(band.mean((0, 2))) for band in bands)
    whiteness = (high / middle.clamp(min=1e-12)).tolist()
    # Chroma tells best: an image's textures are mostly luma.
    telling = 1 if len(middle) > 1 and middle[1] > LEAST_CHROMA * middle[0] else 0
    return whiteness, whiteness[telling] < WHITE


def _equal(small: _Blocks) -> float:
    """The share of pixels, of the flattest blocks, that are equal to the one before; black and white left out."""
    which, _ = small.flattest(WHITE_SHARE)
    place, (_, rows, columns) = small.place[which.flatten()], small.pixels.shape[:3]
    x = small.pixels[place // (rows * columns), place // columns % rows, place % columns]
    inside = (_clipped(x, small.limits) == 0).all(1)
    compared = inside[..., 1:] & inside[..., :-1]
    equal = (x[..., 1:] == x[..., :-1]).all(1) & compared
    return float(equal.sum() / compared.sum().clamp(min=1))


def _correlation(large: _Blocks) -> list[tuple[float, float, float]]:
    """Of luma, and of chroma if there is, at 1, 2 and 3 pixels."""
    which, flat = large.flattest(CORRELATED_SHARE)
    x, _ = large.planes(which[flat])
    far = _components(_slow(x).mean(0))
    shared = [far - _components(_half_square(x, lag).mean(0)) for lag in (1, 2, 3)]
    # Of a texture that repeats itself every 8 pixels, nothing is left far apart.
    one, two, three = ((each / far.clamp(min=1e-12)).clamp(-1, 1) for each in shared)
    return list(zip(one.tolist(), two.tolist(), three.tolist(), strict=True))


def _flat(blocks: _Blocks) -> float:
    """The share of all blocks that are no more than twice as rough as the flattest."""
    tiles, rows, columns = blocks.pixels.shape[:3]
    which, _ = blocks.flattest(FLATTEST)
    most = 2 * blocks.roughness[which].mean()
    return float((blocks.roughness <= most).sum()) / (tiles * rows * columns)


def _tiles(image: Tensor) -> Tensor:
    """(T, h, w, C): the image, or tiles spread over it, which begin where JPEG's blocks do."""
    height, width = image.shape[:2]
    if height * width <= MOST_PIXELS:
        return image.unsqueeze(0)
    high, wide = min(TILE, height), min(TILE, width)
    most = MOST_PIXELS // (high * wide)
    down = min(max(round((most * height / width) ** 0.5), 1), height // high, most)
    across = min(most // down, width // wide)
    tops, lefts = _spread(height - high, down), _spread(width - wide, across)
    return torch.stack([image[top : top + high, left : left + wide] for top in tops for left in lefts])


def _spread(last: int, count: int) -> list[int]:
    """So many multiples of 8 from 0 to `last`, evenly."""
    return [last * i // max(count - 1, 1) // 8 * 8 for i in range(count)]


def _blocks(tiles: Tensor) -> tuple[_Blocks, _Blocks]:
    """The tiles' blocks, small and large, less those that are constant or too much clipped."""
    low, high = (float(x) for x in tiles.aminmax())
    limits = (0.0 if low >= 0 else -math.inf, 1.0 if high <= 1 else math.inf)
    # Centred, or squaring would cost float32 the digits that count.
    halves = _halved(tiles) - 0.5
    parts = [halves, halves.square()]
    if low == limits[0] or high == limits[1]:
        parts.append(_halved(_clipped(tiles, limits)).mean(3, keepdim=True))
    # Of cells of half a block's side, from which blocks are put together.
    cells = _halved(torch.cat(parts, 3))
    return _of_cells(tiles, cells, limits, SMALL), _of_cells(tiles, _halved(cells), limits, LARGE)


def _of_cells(tiles: Tensor, cells: Tensor, limits: tuple[float, float], side: int) -> _Blocks:
    """Blocks of 2 x 2 cells: (T, rows, columns, means and mean squares, and the clipped share, if any)."""
    rows = cells[:, 1:] + cells[:, :-1]
    blocks = (rows[:, :, 1:] + rows[:, :, :-1]).flatten(0, 2) / 4
    channels = tiles.shape[3]
    mean, square, clipped = blocks[:, :channels], blocks[:, channels : 2 * channels], blocks[:, 2 * channels :]
    left = _left_by_clipping(clipped.sum(1))
    roughness = (square - mean.square()).mean(1) / left
    place = ((roughness > CONSTANT) & (clipped.sum(1) <= MOST_CLIPPED)).nonzero().squeeze(1)
    pixels = tiles.unfold(1, side, side // 2).unfold(2, side, side // 2)
    return _Blocks(pixels, limits, place, roughness[place], mean.mean(1)[place] + 0.5)


def _halved(x: Tensor) -> Tensor:
    """(T, h, w, C) -> (T, h // 2, w // 2, C): means of 2 x 2."""
    high, wide = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    rows = x[:, 0:high:2, :wide] + x[:, 1:high:2, :wide]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) / 4


def _clipped(x: Tensor, limits: tuple[float, float]) -> Tensor:
    """1 for samples at black or white, otherwise 0."""
    return ((x <= limits[0]) | (x >= limits[1])).float()


def _slope(x: Tensor) -> Tensor:
    """Of blocks (K, 1, side, side), the plane that fits each best, less its mean."""
    side = x.shape[3]
    ramp = torch.arange(side) - (side - 1) / 2
    ramp = ramp / ramp.square().sum().sqrt()
    down, across = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
    return (down.mT @ ramp).unsqueeze(3) * ramp.unsqueeze(1) + (across @ ramp).unsqueeze(3) * ramp


def _left_by_clipping(share: Tensor) -> Tensor:
    """How much of Gaussian noise's variance is left after so large a share of it was clipped at one end.

    Fitted; at shares of 0.03, 0.1, 0.2, 0.3 and 0.5 it is 0.948, 0.837, 0.694, 0.564 and 0.341.
    """
    return 1 - 1.7 * share + 0.8 * share.square()


def _cosines(lowest: int, highest: int) -> Tensor:
    """(64, n): the discrete cosine transform of 8 x 8 blocks, of the frequencies whose sum is within these."""
    step = torch.arange(8)
    basis = (math.pi / 8 * step.unsqueeze(1) * (step + 0.5)).cos() / 2
    basis[0] /= 2**0.5
    total = (step.unsqueeze(1) + step).flatten()
    return torch.kron(basis, basis)[(total >= lowest) & (total <= highest)].T


def _jpeg_blocks(tiles: Tensor) -> bool:
    """Whether the coefficients of blocks of 8 x 8 are near multiples of some step, as JPEG rounds them.

    Then their histograms are combs, whatever is shown, and however noisy it was before.
    Source: Fan & de Queiroz, "Identification of bitmap compression history: JPEG detection and quantizer
    estimation", IEEE Transactions on Image Processing, 2003.
    """
    luma = tiles @ tiles.new_tensor(LUMA) if tiles.shape[3] == 3 else tiles[..., 0]
    combs = _combs(_shifted_blocks(255 * luma) @ _cosines(*LOW))
    return bool(combs.max() > max(STANDS_OUT, 2 * float(combs.median())))


def _shifted_blocks(luma: Tensor) -> Tensor:
    """(T, h, w) -> (K, 64, 64): blocks spread over all tiles, each in the 64 places up to 7 pixels further on."""
    at_all = luma.unfold(1, 8, 1).unfold(2, 8, 1)
    high, wide = (side // 8 * 8 for side in at_all.shape[1:3])
    cells = at_all[:, :high, :wide].unfold(1, 8, 8).unfold(2, 8, 8)
    tiles, rows, columns = cells.shape[:3]
    count = tiles * rows * columns
    place = torch.linspace(0, count - 1, min(count, COMB_BLOCKS)).long()
    chosen = cells[place // (rows * columns), place // columns % rows, place % columns]
    return chosen.permute(0, 3, 4, 1, 2).reshape(-1, 64, 64)


def _combs(coefficients: Tensor) -> Tensor:
    """(K, 64, F) -> (64,): in each way for blocks to lie, by how many standard deviations there are combs.

    Only what lies beyond half a step counts: nearer to 0 lies most of any image. Without a comb there is more
    on the near side of each step's middle, so that the cosine's mean is below 0.
    """
    ways, frequencies = coefficients.shape[1:]
    last = LARGEST_COEFFICIENT * BINS_A_STEP
    bins = (coefficients.abs() * BINS_A_STEP).round_().clamp_(max=last).long()
    bins += (last + 1) * torch.arange(ways * frequencies).view(ways, frequencies)
    counts = bins.flatten().bincount(minlength=(last + 1) * ways * frequencies).view(ways, frequencies, -1)
    value, steps = torch.arange(last).unsqueeze(1) / BINS_A_STEP, torch.tensor(STEPS)
    beyond = (value > steps / 2).float()
    # The last bin is of all that are larger.
    histograms = counts[..., :last].float()
    many = histograms @ beyond
    sums = histograms @ (beyond * (2 * math.pi * value / steps).cos())
    # By chance, a cosine has a variance of a half.
    deviations = (sums / (many / 2).clamp(min=1).sqrt()).where(many >= LEAST_COEFFICIENTS, 0)
    return deviations.amax(2).topk(COMBED).values[:, -1]
