"""Registration: how far one shot of a scene lies from another, with its standard error, and moving it there.

Both shots may be noisy. The search goes from coarse to fine, then least squares on the gradient finds the shift
to a small part of a pixel.

- Search: normalised cross-correlation of the overlap, on shots reduced by averaging. Phase correlation answers 0
  for noisy shots that lie 40 pixels apart, because it weighs every frequency alike, and most hold noise alone.
- Weights: both shots are filtered by how much signal they share at each frequency.
- Least squares: the slopes of one noisy shot as regressors of the other would make steps too short. So the slopes
  of each shot are the instruments for those of the other one, whose noise is independent.
- Standard error: from the sums over blocks of pixels, see `jackknife.py`.

Sources: Lucas, Kanade, "An iterative image registration technique", IJCAI 1981 (least squares on the gradient);
Padfield, "Masked object registration in the Fourier domain", IEEE Transactions on Image Processing 2012 (search);
Knapp, Carter, "The generalized correlation method for estimation of time delay", IEEE Transactions on Acoustics,
Speech and Signal Processing 1976 (weights).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data.jackknife import jackknife_errors

# The largest side that is looked at, in pixels: the middle of larger images.
MAX_SIDE = 1024
# The largest side of the reduced images in the search, in pixels.
SEARCH_SIDE = 128
# Part of the image that must overlap in the search.
MIN_OVERLAP = 0.5
# A shift is preferred to none if its correlation (by Fisher's transform) is higher by so many standard errors.
MIN_PREFERENCE = 5.0
# Steps of Gauss-Newton at most for one choice of weights, and a step, in pixels, below which none follows.
STEPS = 12
SMALL_STEP = 1e-3
# Choices of weights and of overlap. A shift that is left is at most so many pixels, or the overlap is chosen
# again.
ROUNDS = 3
MAX_REMAINING = 1.5
# Pixels along the borders that are not compared, at least: what moves in there is unknown.
BORDER = 8
# Bins of frequency for the weights, and the frequencies between which they fall to 0, in cycles a pixel.
BINS = 48
PASS_BAND = (0.35, 0.48)
# The lowest bins, which do not set the height of the filter.
FEW = 3
# Noise of a bin of frequency is at least this part of the median noise, or of the mean power.
MIN_NOISE_SHARE = 0.1
MIN_POWER_SHARE = 1e-6
# Blocks a side over which scores are summed for the standard error, and their least side in pixels.
BLOCKS = 16
MIN_BLOCK = 8
# Standard errors by which the slopes of both shots agree.
MIN_SIGNAL = 4.0
# The scene does not tell the shift if its standard error is larger, in pixels.
MAX_ERROR = 1.0


@dataclass(frozen=True)
class Shift:
    """Pixels down and to the right, with standard errors."""

    rows: float
    columns: float
    row_error: float
    column_error: float

    @property
    def length(self) -> float:
        """In pixels."""
        return math.hypot(self.rows, self.columns)

    @property
    def error(self) -> float:
        """The larger of the two standard errors, in pixels."""
        return max(self.row_error, self.column_error)

    @property
    def deviations(self) -> float:
        """How many standard errors the shift is from none: the larger of the two."""
        return max(abs(self.rows) / self.row_error, abs(self.columns) / self.column_error)


def measure_shift(image: Tensor, reference: Tensor, search: bool = True) -> Shift | None:
    """The shift by which `reference` has to be moved to lie on `image`. None where the scene does not tell.

    image, reference: float (H, W, C) of one size. A flat scene does not tell, and one of parallel stripes.
    search: also shifts of more than two pixels.
    """
    target, moving = (_middle(x.double().mean(2)) for x in (image, reference))
    if min(target.shape) < 4 * BORDER:
        return None
    rows, columns = _search(target, moving) if search else (0, 0)
    for _ in range(ROUNDS):
        found = _least_squares(*overlap(target, moving, rows, columns))
        if found is None:
            return None
        if max(abs(found.rows), abs(found.columns)) <= MAX_REMAINING:
            break
        rows, columns = rows + round(found.rows), columns + round(found.columns)
        if abs(rows) > target.shape[0] * (1 - MIN_OVERLAP) or abs(columns) > target.shape[1] * (1 - MIN_OVERLAP):
            return None
    else:
        return None
    shift = Shift(found.rows + rows, found.columns + columns, found.row_error, found.column_error)
    return shift if shift.error <= MAX_ERROR else None


def overlap(target: Tensor, moving: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The parts of two images (H, W, ...) that lie on each other once `moving` is moved by whole pixels."""
    height, width = target.shape[:2]
    down, right, up, left = max(rows, 0), max(columns, 0), max(-rows, 0), max(-columns, 0)
    return (
        target[down : height - up, right : width - left],
        moving[up : height - down, left : width - right],
    )


def move(image: Tensor, rows: float, columns: float) -> Tensor:
    """The image, float (H, W, C), moved down by `rows` pixels and right by `columns`. Its borders are mirrored.

    The phases of its Fourier transform are shifted, so nothing is blurred.
    """
    height, width, _ = image.shape
    shift = torch.tensor((rows, columns), dtype=torch.float64)
    spectra = (_spectrum(plane.double()) for plane in image.unbind(2))
    planes = [_moved(spectrum, height, width, shift) for spectrum in spectra]
    return torch.stack(planes, 2).to(image.dtype)


def _middle(plane: Tensor) -> Tensor:
    for axis in (0, 1):
        size = plane.shape[axis]
        plane = plane.narrow(axis, max(0, (size - MAX_SIDE) // 2), min(size, MAX_SIDE))
    return plane


# Search


def _search(target: Tensor, moving: Tensor) -> tuple[int, int]:
    """The shift in whole pixels, to within two."""
    factor = 1
    while max(target.shape) / factor > SEARCH_SIDE:
        factor *= 2
    rows, columns = _search_all(reduce(target, factor), reduce(moving, factor))
    while factor > 2:
        factor //= 2
        rows, columns = _search_near(reduce(target, factor), reduce(moving, factor), 2 * rows, 2 * columns)
    return rows * factor, columns * factor


def reduce(plane: Tensor, factor: int) -> Tensor:
    """(H, W) -> means of squares of that side. What is left at the end is cut off."""
    height, width = (size // factor for size in plane.shape)
    cut = plane[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor).mean((1, 3))


def _search_all(target: Tensor, moving: Tensor) -> tuple[int, int]:
    """The shift with the highest correlation of the overlap, or (0, 0) if none is clearly higher than there."""
    height, width = target.shape
    size = (2 * height, 2 * width)
    ones = torch.ones_like(target)
    images = (target - target.mean(), moving - moving.mean(), ones)
    spectra = [torch.fft.rfft2(image, size) for image in images]
    squares = [torch.fft.rfft2(image.square(), size) for image in images[:2]]

    def product(first: Tensor, second: Tensor) -> Tensor:
        """The sum of products at each shift of the second."""
        made: Tensor = torch.fft.irfft2(first * second.conj(), size)
        return made

    count = product(spectra[2], spectra[2]).round().clamp(min=1)
    of_target, of_moving = product(spectra[0], spectra[2]) / count, product(spectra[2], spectra[1]) / count
    covariance = product(spectra[0], spectra[1]) / count - of_target * of_moving
    variance = (product(squares[0], spectra[2]) / count - of_target.square()).clamp(min=0) * (
        product(spectra[2], squares[1]) / count - of_moving.square()
    ).clamp(min=0)
    correlation = (covariance / variance.sqrt().clamp(min=1e-30)).clamp(-0.999999, 0.999999)
    allowed = count >= MIN_OVERLAP * height * width
    score = torch.where(allowed, correlation.atanh() - 1 / count.sqrt(), -math.inf)
    best = int(score.argmax())
    gain = float(score.flatten()[best] - score[0, 0])
    if gain * math.sqrt(float(count.flatten()[best])) < MIN_PREFERENCE:
        return 0, 0
    row, column = divmod(best, size[1])
    return row - size[0] * (row > height), column - size[1] * (column > width)


def _search_near(target: Tensor, moving: Tensor, rows: int, columns: int) -> tuple[int, int]:
    """The best of the shifts up to two pixels away."""
    shifts = [(rows + row, columns + column) for row in range(-2, 3) for column in range(-2, 3)]
    return max(shifts, key=lambda shift: _correlation(*overlap(target, moving, *shift)))


def _correlation(first: Tensor, second: Tensor) -> float:
    if not first.numel():
        return -1.0
    first, second = first - first.mean(), second - second.mean()
    scale = float(first.square().sum() * second.square().sum()) ** 0.5
    return float((first * second).sum()) / scale if scale > 0 else 0.0


# Least squares


def _least_squares(target: Tensor, moving: Tensor) -> Shift | None:
    """The shift of less than two pixels that is left. None where the scene does not tell."""
    shift = torch.zeros(2, dtype=torch.float64)
    found = None
    moved = moving
    for _ in range(2):
        weights = _weights(target, moved)
        if weights is None:
            return None
        found = _gauss_newton(target, moving, shift, *weights)
        if found is None:
            return None
        shift = torch.tensor((found.rows, found.columns), dtype=torch.float64)
        if bool(shift.abs().max() > 2 * MAX_REMAINING):
            break
        moved = _moved(_spectrum(moving), moving.shape[0], moving.shape[1], shift)
    return found


def _weights(target: Tensor, moving: Tensor) -> tuple[Tensor, float] | None:
    """The filter's response by bin of frequency, and the share of the noise that lies in `target`.

    None if the two share no signal. Where S is the power of the signal and P1, P2 are those of the shots, the
    best response to both is the square root of S / (P1 P2 - S^2), so that of one is its fourth root.
    """
    height, width = target.shape
    window = torch.outer(*(torch.hann_window(size, periodic=False, dtype=torch.float64) for size in target.shape))
    first, second = (torch.fft.rfft2((plane - plane.mean()) * window) for plane in (target, moving))
    bins = _bins(height, width)
    count = torch.bincount(bins, minlength=BINS).clamp(min=1)

    def mean(power: Tensor) -> Tensor:
        return torch.bincount(bins, power.flatten(), BINS) / count

    signal = mean((first * second.conj()).real).clamp(min=0)
    powers = [mean(each.abs().square()) for each in (first, second)]
    noises = [_floored(power - signal, power) for power in powers]
    if not bool((signal > 0).any()) or not all(bool((noise > 0).all()) for noise in noises):
        return None
    # P1 P2 - S^2, with noises that are floored.
    of_both = signal * (noises[0] + noises[1]) + noises[0] * noises[1]
    frequency = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS / 2
    start, stop = PASS_BAND
    fall = 0.5 + 0.5 * torch.cos(math.pi * ((frequency - start) / (stop - start)).clamp(0, 1))
    share = float(noises[0].mean() / (noises[0] + noises[1]).mean())
    # A filter that only falls rings least: what it takes from beyond the borders stays near them.
    falling = (signal / of_both).flip(0).cummax(0).values.flip(0)
    # The lowest bins hold few frequencies, so chance may make their noise small.
    response: Tensor = falling.clamp(max=falling[FEW:].max()).sqrt() * fall
    return response, share


def _floored(noise: Tensor, power: Tensor) -> Tensor:
    least = max(MIN_NOISE_SHARE * float(noise.median()), MIN_POWER_SHARE * float(power.mean()))
    return noise.clamp(min=least)


def _bins(height: int, width: int) -> Tensor:
    """The bin of each frequency of a real transform, flat. Bins are even from 0 to 0.5 cycles a pixel."""
    across = torch.fft.rfftfreq(width, dtype=torch.float64)
    down = torch.fft.fftfreq(height, dtype=torch.float64).unsqueeze(1)
    frequency = (across.square() + down.square()).sqrt()
    bins: Tensor = (frequency * 2 * BINS).long().clamp(max=BINS - 1)
    return bins.flatten()


def _gauss_newton(target: Tensor, moving: Tensor, start: Tensor, response: Tensor, share: float) -> Shift | None:
    """share: of the noise that lies in `target`. The slopes of the shot with less noise count for more."""
    height, width = target.shape
    filtered = response[_bins(2 * height, 2 * width)].view(2 * height, width + 1)
    spectra = [_spectrum(plane - plane.mean()) * filtered for plane in (target, moving)]
    shift = start.clone()
    fixed = _moved(spectra[0], height, width, torch.zeros_like(shift))
    border = _border(response, min(height, width))
    inside = (slice(border, -border), slice(border, -border))
    slopes_of_target = _slopes(fixed)[inside]
    for _ in range(STEPS):
        moved = _moved(spectra[1], height, width, shift)
        slopes_of_moved = _slopes(moved)[inside]
        instruments = (1 - share) * slopes_of_target + share * slopes_of_moved
        # Of two shots, whose noise is independent: that of one with itself would add the noise's own slopes.
        normal = slopes_of_target.flatten(0, 1).mT @ slopes_of_moved.flatten(0, 1)
        normal = (normal + normal.mT) / 2
        trace = float(torch.trace(normal))
        if trace <= 0 or float(torch.linalg.det(normal)) <= 1e-9 * trace**2:
            return None
        if not _is_signal(slopes_of_target, slopes_of_moved, response):
            return None
        difference = _without_level(fixed[inside], moved[inside])
        scores = block_sums(instruments * difference.unsqueeze(2))
        # Moving the image by d changes it by -slope * d.
        inverse = torch.linalg.inv(normal)
        step = -inverse @ scores.sum(0)
        shift = shift + step
        if bool(shift.abs().max() > 4 * MAX_REMAINING):
            return Shift(float(shift[0]), float(shift[1]), 1.0, 1.0)
        if bool(step.abs().max() < SMALL_STEP):
            break
    products = torch.stack(
        [slopes_of_target[..., i] * slopes_of_moved[..., j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))], 2
    )
    normals = block_sums(products).view(-1, 2, 2)
    errors = jackknife_errors(scores - scores.mean(0), (normals + normals.mT) / 2).clamp(min=SMALL_STEP / 10)
    return Shift(float(shift[0]), float(shift[1]), float(errors[0]), float(errors[1]))


def _border(response: Tensor, side: int) -> int:
    """Pixels along the borders into which the filter brings what lies beyond them."""
    return min(max(BORDER, 2 * BINS // _passed(response)), side // 6)


def _is_signal(first: Tensor, second: Tensor, response: Tensor) -> bool:
    """Whether the slopes (H, W, 2) of both shots agree, down and across, by more than chance."""
    products, squares = (first * second).sum((0, 1)), first.square().sum((0, 1)) * second.square().sum((0, 1))
    # The filter leaves so many independent pixels.
    count = first.shape[0] * first.shape[1] * (_passed(response) / BINS) ** 2
    return bool((products > MIN_SIGNAL * (squares / count).sqrt()).all())


def _passed(response: Tensor) -> int:
    """Bins of frequency that pass the filter."""
    return int((response >= response.max() / 2).sum())


def _without_level(fixed: Tensor, moved: Tensor) -> Tensor:
    """What differs, less a difference in gain and offset."""
    centred = moved - moved.mean()
    gain = (fixed * centred).sum() / centred.square().sum().clamp(min=1e-30)
    difference: Tensor = fixed - fixed.mean() - gain * centred
    return difference


def _slopes(plane: Tensor) -> Tensor:
    """(H, W, 2): down and across."""
    return torch.stack(torch.gradient(plane), 2)


def block_sums(values: Tensor) -> Tensor:
    """(H, W, C) -> (N, C): sums over blocks of pixels, up to BLOCKS a side."""
    index = block_index(values.shape[0], values.shape[1])
    sums = torch.zeros(int(index.max()) + 1, values.shape[2], dtype=values.dtype)
    return sums.index_add_(0, index.flatten(), values.flatten(0, 1))


def block_index(height: int, width: int) -> Tensor:
    """(H, W): the number of each pixel's block."""
    blocks = [max(2, min(BLOCKS, size // MIN_BLOCK)) for size in (height, width)]
    rows, columns = (
        torch.arange(size).mul(count).div(size, rounding_mode="floor")
        for size, count in zip((height, width), blocks, strict=True)
    )
    return rows.unsqueeze(1) * blocks[1] + columns


def _spectrum(plane: Tensor) -> Tensor:
    """Of the plane continued by its mirror image, so that no edge lies between one side and the other."""
    tall = torch.cat((plane, plane.flip(0)))
    whole = torch.cat((tall, tall.flip(1)), 1)
    spectrum: Tensor = torch.fft.rfft2(whole)
    return spectrum


def _moved(spectrum: Tensor, height: int, width: int, shift: Tensor) -> Tensor:
    """The plane of that spectrum, moved."""
    across = torch.fft.rfftfreq(2 * width, dtype=torch.float64)
    down = torch.fft.fftfreq(2 * height, dtype=torch.float64).unsqueeze(1)
    phase = torch.exp(-2j * torch.pi * (down * shift[0] + across * shift[1]))
    moved: Tensor = torch.fft.irfft2(spectrum * phase, (2 * height, 2 * width))
    return moved[:height, :width]
