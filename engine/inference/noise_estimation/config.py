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

    # Computer graphics

    # A pixel flips if it lies above or below both its neighbours, and differs from one of them by at most this
    # part of the image's range.
    max_flip: float = 0.02
    # Share of pixels that flip. With less, nothing but a drawing is possible: photographs of cameras have 0.18
    # and more, averages of many shots 0.04, single photons 0.0013.
    max_drawing_flips: float = 0.0001
    # Share of pixels that equal those to the left and above. Screens with text have 0.64 and more; photographs
    # 0.5 and less, averages of many shots up to 0.73.
    min_equal_share: float = 0.6
    # Pixels that flip, divided by those that do not equal their neighbours: 0.04 to 0.06 in text, 0.15 and more
    # in averages of many shots. And the same where most of the image is equal: 0.12 at most in drawings, 0.3 and
    # more in counts of few photons.
    max_flips: float = 0.09
    min_flat_drawing: float = 0.9
    max_flips_in_flat: float = 0.2
    # Share of pixels that flip in a block of 16 x 16 that has noise, and the share of such blocks.
    max_block_flips: float = 0.1
    max_noisy_blocks: float = 0.05
    # Difference of the values of a two-valued image, in parts of white. Counts of single photons have less.
    min_two_valued_contrast: float = 0.125

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

    # Impulses

    # Least number of impulses, and least share of the pixels, to be believed.
    min_impulses: int = 16
    min_impulse_share: float = 3e-5
    # Steps between neighbouring values that the range must have, for images of few values: single photons are a
    # step of one, and no impulses.
    min_impulse_steps: float = 12.0
    # Pixels at one end of the range that are looked at for a first judgement.
    max_sampled_impulses: int = 4096
    # Deviation from the local median divided by the local noise: of impulses at an end of the range, and of those
    # of them that clipped noise cannot make.
    min_fixed_ratio: float = 4.0
    min_gap_fixed_ratio: float = 6.0
    # Largest share of pixels at one end of the range, impulses and others.
    max_fixed_share: float = 0.5
    # Pixels near the end of the range that stand out likewise, divided by those at the end. Impulses of a fixed
    # value have none beside them; glints and noise have.
    max_near_ratio: float = 0.3
    # Pairs of impulses at one distance, divided by those that chance makes.
    max_together_ratio: float = 3.0
    # Deviation from the local median divided by the local noise: outliers, and of these impulses.
    min_outlier_ratio: float = 5.0
    min_impulse_ratio: float = 8.0
    # Deviation of the four nearest neighbours divided by that of the pixel. A spread of 0.8 pixels has 0.46.
    max_following: float = 0.15
    # Impulses divided by weaker outliers, and by those that neighbours follow.
    min_gap_ratio: float = 2.0

    # Banding

    # Share of samples that have the lowest or the highest value: then these are clipped.
    min_clipped_share: float = 0.001
    # Variance that far parts of the width share, in standard errors.
    min_banding_deviations: float = 4.0
    # Share of the parts that must agree with the others.
    min_agreeing_parts: float = 0.85
    # Largest difference between the rows' correlations and those of independent offsets, beside chance.
    max_banding_correlation: float = 0.08
    # Kurtosis of the differences: 3 is Gaussian. Edges have more.
    max_banding_kurtosis: float = 5.0
    # Standard deviation of the offsets, divided by that of neighbouring pixels. Stripes in noise reach 0.3.
    min_banding_ratio: float = 0.35
    # Standard deviation of the offsets of integers.
    min_banding_steps: float = 0.2

    # Noise ceiling

    # Standard deviation in steps of integers. Blocks with less are constant, or JPEG flattened them.
    min_ceiling_steps: float = 0.25
    # The share of the blocks that count as the calmest, and by how much their noise may be below the mean's.
    ceiling_share: float = 0.01
    ceiling_margin: float = 1.13
    ceiling_share_jpeg: float = 0.1
    ceiling_margin_jpeg: float = 1.25

    # Kind of noise, and words

    # Sigma, and correlation of neighbouring pixels' luma. Correlated noise below both may be a clean image's
    # texture: 16 of Kodak24's clean images look so, and none of PolyU's noisy ones, which have a correlation of
    # 0.5 and more.
    max_texture_sigma: float = 2.5
    max_texture_correlation: float = 0.4
    # Sigma. Less is called "hardly any noise"; rounding to 8 bits alone makes 0.3.
    min_visible_sigma: float = 1.0


DEFAULT_CONFIG = EstimatorConfig()
