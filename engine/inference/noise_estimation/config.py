"""Thresholds of the noise estimator, each with its unit and the measurement behind it."""

from dataclasses import dataclass

# Lowest and highest sum of a coefficient's two frequencies, each 0 to 7, in the cosine transform of 8 x 8 pixels.
Band = tuple[int, int]


@dataclass(frozen=True)
class EstimatorConfig:
    """All thresholds. Variances are of pixels on [0, 1], sigmas are on the scale of 0 to 255."""

    # Sampling

    # Pixels of the image that are looked at. A larger image is looked at in square tiles, spread evenly.
    max_pixels: int = 2**20
    # Pixels.
    tile_side: int = 128

    # Flat blocks

    # Blocks are grouped by brightness into at most this many bins.
    max_bins: int = 8
    # The flattest share of a bin's blocks, and the least number of them, by which its roughness is judged.
    flattest_share: float = 0.02
    min_blocks: int = 16
    # Shares of a bin's blocks that are measured. With correlated noise, the flattest blocks are those that happen
    # to have least of it, so more are taken.
    white_share: float = 0.04
    whiteness_share: float = 0.05
    correlated_share: float = 0.3
    # A block is flat if it is at most this many times as rough as the flattest blocks of its bin.
    max_roughness_ratio: float = 1.5
    # Blocks at most this many times as rough as the flattest ones count as flat in `NoiseEstimate.flat`.
    flat_roughness_ratio: float = 2.0
    # Pixels of the blocks that are measured, over all bins.
    max_measured_pixels: int = 2**16
    # Variance of the means of 2 x 2 pixels. A block with less is constant, so it is not photographed: this is a
    # standard deviation of 0.044 on the scale of 0 to 255.
    min_roughness: float = 3e-8
    # Share of samples at black or white. Blocks with more are not looked at.
    max_clipped_share: float = 0.55

    # Noise level function

    # A block whose variance is more than this many times its bin's median has fine texture, and is left out.
    max_variance_ratio: float = 2.5
    # Spread: the relative spread of the variances of a bin's blocks, squared. A bin has flat parts if its spread
    # is at most this many times that of the most even bin.
    max_spread_ratio: float = 2.5
    # Roughness divided by the variance at high frequencies: 0.09 in the flattest blocks of white noise in grey,
    # 0.14 in colour. Fine texture has less than this.
    min_white_roughness: float = 0.065
    # Coarse texture has more roughness than the smoothest bin by this factor.
    max_white_roughness_ratio: float = 1.2

    # Whiteness and correlation

    # Variance at high frequencies, divided by that at middle ones. Noise with more is white. Measured on BSD400
    # with sigma 15 to 50: white noise has 0.98 and more in chroma, and 0.89 and more in grey; cameras' noise has
    # 0.5 and less in chroma.
    min_whiteness: float = 0.65
    # Variance of chroma divided by that of luma. Less is rounding, and says nothing about the noise.
    min_chroma_ratio: float = 0.001
    # Middle and high frequencies, and the highest ones, at which white noise is measured.
    middle_band: Band = (4, 6)
    high_band: Band = (9, 14)
    highest_band: Band = (10, 14)
    # Distances in pixels at which noise is taken to be independent.
    independent_distances: tuple[int, ...] = (8, 10, 12)
    # Keeps divisions by a variance finite.
    min_variance: float = 1e-12

    # Computer drawings: the blocks that vary least hold edges, not noise

    # Share of pixels in the flattest blocks that equal the one before; black and white are not counted. Measured:
    # 0.92 and more for screens with text (black on white cannot be recognised); at most 0.79 for the images of
    # PolyU and CBSD68.
    min_equal_share: float = 0.85
    # Sigma. A drawing's measured variance is above this.
    min_drawing_sigma: float = 4.0

    # JPEG grid

    # Quantisation steps, on the scale of 0 to 255. Every step up to 26 is one of these or a multiple, and
    # multiples of a step are multiples of its factors.
    jpeg_steps: tuple[int, ...] = (2, 3, 4, 5, 7, 11, 13, 17, 19, 23)
    # Frequencies that are looked at.
    jpeg_band: Band = (1, 4)
    # Blocks that are looked at, for each of the 64 positions of the grid.
    jpeg_blocks: int = 512
    # Coefficients: bins of a histogram for each step of 1, the largest value, and the least number that counts.
    bins_per_step: int = 4
    max_coefficient: int = 256
    min_coefficients: int = 30
    # A grid is found if at least this many frequencies have a comb that stands out in two ways: by this many
    # standard deviations, and by this ratio to what most positions have. The ratio is for drawings: they have few
    # values, and so combs at all positions.
    # Measured on Kodak24, and on CBSD68, which were JPEG files once, with noise of 0, 5, 15 and 30 added before
    # compression. Of 368 files at each quality, all at 85 and below are found, and all but one at 90 and 95; none
    # at 98, whose steps are 1. None of 300 other images is taken for a JPEG file.
    min_comb_frequencies: int = 3
    min_comb_deviations: float = 5.0
    min_comb_ratio: float = 2.0

    # Kind of noise, and words

    # Sigma, and correlation of neighbouring pixels' luma. Correlated noise below both may be a clean image's
    # texture: 16 of Kodak24's clean images look so, and none of PolyU's noisy ones, which have a correlation of
    # 0.5 and more.
    max_texture_sigma: float = 2.5
    max_texture_correlation: float = 0.4
    # Sigma. Less is called "hardly any noise"; rounding to 8 bits alone makes 0.3.
    min_visible_sigma: float = 1.0


DEFAULT_CONFIG = EstimatorConfig()
