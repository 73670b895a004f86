"""Synthetic images, so that training needs no photo: the dead leaves model.

Opaque leaves of random shape, colour and texture fall on one another until the ground is covered. With sizes
drawn from r^-3 the image looks alike at every scale, and shares with photographs their spectrum, the heavy
tails of their gradients, and edges at which one thing hides another.
Sources: Lee, Mumford & Huang, "Occlusion models for natural images", IJCV 2001; Bordenave, Gousseau & Roueff,
"The dead leaves model", Advances in Applied Probability 2006; Achddou, Gousseau & Ladjal, "Synthetic images as a
regularity prior for image restoration neural networks", SSVM 2021, who train a denoiser on them.

Neither they nor most photographs show what people make by the yard: cloth, blinds, screens, halftones, small
print. A network that has seen too little of it takes the finest for noise, whatever its contrast. `prints` are
full of it.
"""

import math
import string
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data import text

# Drawn so many times larger and averaged down, which softens the edges as a lens and a sensor do.
OVERSAMPLING = 2
# How often, on average, a place is covered.
COVER = 4.0
# Leaves' radii, in pixels of the result: the least is drawn for each image; the largest is part of its side.
LEAST_RADIUS, LARGEST_PART = (1.0, 10.0), 0.5
OUTLINES, ANGLES = 64, 1024
TEXTURES, TEXTURE_SIDE = 8, 256
# Of prints: their leaves' least radius; as powers of two, their waves' periods in pixels of the result, and how
# much steeper than a sine's the edges are at most; how far apart two colours are, beside those of two leaves.
LEAST_PRINT, PERIODS, STEEPEST, CONTRAST = (8.0, 40.0), (1.0, 5.0), 3.0, 4.0
# Of prints that are pages of text: their share; sizes of letters in pixels of the result, as powers of two; and
# the least difference of brightness between paper and ink; the most is 1 less that.
LETTERED, SIZES, LEAST_INK = 1 / 3, (2.8, 4.8), 0.25
LETTERS = string.ascii_letters + string.digits + ".,;:-()" + 12 * " "
# Halvings of neighbours' differences that make the image's unsharp parts: sigma is half the root of this.
SOFTENING = 8
# Place and leaf pairs looked at together: what they take stays within a processor's cache.
AT_ONCE = 2**17


def dead_leaves(height: int, width: int, rng: torch.Generator) -> Tensor:
    """uint8 (height, width, 3), the same for the same state of rng. Raises ValueError for an empty size."""
    _check(height, width)
    rows, cols = ((side + SOFTENING) * OVERSAMPLING for side in (height, width))
    leaves = _fall(rows, cols, rng)
    seen = _topmost(leaves, rows, cols)
    sharp = _average_down(_paint(leaves, seen.view(rows, cols), rng))
    return _in_bytes(_focus(sharp, rng))


def prints(height: int, width: int, rng: torch.Generator) -> Tensor:
    """Leaves with stripes, checks or dots in two colours, of any contrast, down to two pixels a period; or text.

    uint8 (height, width, 3), the same for the same state of rng. Raises ValueError for an empty size.
    """
    _check(height, width)
    rows, cols = height * OVERSAMPLING, width * OVERSAMPLING
    if float(torch.rand((), generator=rng)) < LETTERED:
        return _in_bytes(_average_down(_page(rows, cols, rng)))
    leaves = _fall(rows, cols, rng, LEAST_PRINT)
    seen = _topmost(leaves, rows, cols).view(rows, cols)
    ink = _waves(leaves, seen, rng)[..., None]
    return _in_bytes(_average_down(torch.lerp(leaves.colour[seen], _inks(leaves.colour, rng)[seen], ink)))


@dataclass(frozen=True)
class Leaves:
    """The leaves of an image, in the order of their fall; places (y, x) are in drawn pixels."""

    centre: Tensor  # (N, 2)
    extent: Tensor  # (N,) no point of the leaf is further from its centre
    to_local: Tensor  # (N, 2, 2) from an offset (y, x) to coordinates in which the outline is drawn
    outline: Tensor  # (N,) which row of `outlines`
    outlines: Tensor  # (OUTLINES, ANGLES) squared distance from the centre to the edge, by angle
    colour: Tensor  # (N, 3)


def _fall(rows: int, cols: int, rng: torch.Generator, least_radius: tuple[float, float] = LEAST_RADIUS) -> Leaves:
    radius = _radii(rows, cols, least_radius, rng)
    count = len(radius)
    stretch = 2 ** _uniform((count,), -0.8, 0.8, rng)
    axes = torch.stack((radius * stretch, radius / stretch), 1)
    outlines = _outlines(rng)
    outline = torch.randint(OUTLINES, (count,), generator=rng)
    extent = axes.amax(1) * outlines.amax(1)[outline]
    # Also from beyond the border, so that it is covered as often as the middle.
    side = torch.tensor([rows, cols])
    centre = torch.rand((count, 2), generator=rng) * (side + 2 * radius[:, None]) - radius[:, None]
    to_local = _turns(count, rng) / axes[:, :, None]
    return Leaves(centre, extent, to_local, outline, outlines.square(), _colours(centre, rng))


def _radii(rows: int, cols: int, least_radius: tuple[float, float], rng: torch.Generator) -> Tensor:
    """From the density r^-3 between two limits; as many as cover the image `COVER` times."""
    low, high = (math.log(radius * OVERSAMPLING) for radius in least_radius)
    least = math.exp(low + (high - low) * float(torch.rand((), generator=rng)))
    most = max(2 * least, LARGEST_PART * min(rows, cols))
    mean_square = 2 * math.log(most / least) / (least**-2 - most**-2)
    count = math.ceil(COVER * rows * cols / (math.pi * mean_square))
    # The share of radii above r is (r^-2 - most^-2) / (least^-2 - most^-2), solved for r.
    radius = (most**-2 + torch.rand(count, generator=rng) * (least**-2 - most**-2)) ** -0.5
    # The first leaf is the ground.
    radius[0] = math.hypot(rows, cols)
    return radius


def _outlines(rng: torch.Generator) -> Tensor:
    """(OUTLINES, ANGLES): the edge's distance at each angle, for discs, rectangles, polygons and wavy blobs.

    Each has the area of the unit disc.
    """
    angle = torch.arange(ANGLES) * (2 * math.pi / ANGLES)
    quarter = OUTLINES // 4
    discs = torch.ones(quarter, ANGLES)
    rectangles = (1 / torch.maximum(angle.cos().abs(), angle.sin().abs())).expand(quarter, -1)
    polygons = torch.stack([_polygon(angle, rng) for _ in range(quarter)])
    wave = torch.arange(2, 9).view(-1, 1)
    phase = _uniform((quarter, len(wave), 1), 0, 2 * math.pi, rng)
    strength = torch.randn((quarter, len(wave), 1), generator=rng) * 0.5 / wave
    blobs = (strength * (wave * angle + phase).cos()).sum(1).exp()
    every = torch.cat((discs, rectangles, polygons, blobs))
    return every / every.square().mean(1, keepdim=True).sqrt()


def _polygon(angle: Tensor, rng: torch.Generator) -> Tensor:
    """Three to seven sides in nearly even directions, at distances of their own from the centre."""
    sides = int(torch.randint(3, 8, (), generator=rng))
    turn = (torch.arange(sides) + _uniform((sides,), -0.15, 0.15, rng)) * (2 * math.pi / sides)
    distance = _uniform((sides,), 0.6, 1.0, rng)
    return 1 / ((angle - turn[:, None]).cos() / distance[:, None]).amax(0)


def _colours(centre: Tensor, rng: torch.Generator) -> Tensor:
    """(N, 3): near to each other, leaves are of like brightness and hue, as the parts of one thing are."""
    count, things = len(centre), 6
    thing = torch.cdist(
        centre + 0.1 * centre.std() * torch.randn((count, 2), generator=rng),
        centre[torch.randint(count, (things,), generator=rng)],
    ).argmin(1)
    middle = 0.8 * torch.randn(things, generator=rng)
    spread = _uniform((things,), 0.2, 1.4, rng)
    brightness = torch.sigmoid(middle[thing] + spread[thing] * torch.randn(count, generator=rng))
    hue = 0.3 * torch.randn((things, 3), generator=rng)[thing] + 0.1 * torch.randn((count, 3), generator=rng)
    saturation = _uniform((), 0.1, 1.0, rng)
    tint = (saturation * (hue - hue.mean(1, keepdim=True))).exp()
    return brightness[:, None] * tint / tint.mean(1, keepdim=True)


def _topmost(leaves: Leaves, rows: int, cols: int) -> Tensor:
    """(rows * cols,): the number of the leaf seen at each place. Leaves of like size are laid down together."""
    # Leaf 0 is the ground, and everywhere.
    top = torch.zeros(rows * cols, dtype=torch.int64)
    for members, half in _by_size(leaves.extent, rows * cols):
        nearest = leaves.centre[members].round().long()
        y = _around(nearest[:, 0], half, rows).unsqueeze(2)
        x = _around(nearest[:, 1], half, cols).unsqueeze(1)
        on_canvas = ((y >= 0) & (y < rows)) & ((x >= 0) & (x < cols))
        within = _within(leaves, members, y, x) & on_canvas
        number = members.view(-1, 1, 1).expand(within.shape)
        top.scatter_reduce_(0, (y * cols + x)[within], number[within], "amax")
    return top


def _by_size(extent: Tensor, most: int) -> Iterator[tuple[Tensor, int]]:
    """Leaves that fit in squares of 2 half + 1 a side, few enough to look at together; the ground is left out."""
    half_octave = (2 * extent.log2()).ceil()
    half_octave[0] = math.inf
    for size in sorted(set(half_octave[1:].tolist())):
        half = math.ceil(2 ** (size / 2)) + 1
        numbers = (half_octave == size).nonzero().squeeze(1)
        for members in numbers.split(max(1, AT_ONCE // min(most, (2 * half + 1) ** 2))):
            yield members, half


def _around(centre: Tensor, half: int, side: int) -> Tensor:
    """(N, L): the places along one side that squares about these centres reach, or else all of it."""
    if 2 * half + 1 >= side:
        return torch.arange(side).expand(len(centre), -1)
    return centre[:, None] + torch.arange(-half, half + 1)


def _within(leaves: Leaves, members: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Whether the leaf covers the place, for each member and place of its square."""
    u, v = _local(leaves, members.view(-1, 1, 1), y, x)
    # ANGLES is a power of two: the remainder is its lowest bits.
    angle = (torch.atan2(v, u) * (ANGLES / (2 * math.pi))).to(torch.int64) & (ANGLES - 1)
    return u.square() + v.square() <= leaves.outlines[leaves.outline[members].view(-1, 1, 1), angle]


def _local(leaves: Leaves, numbers: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Places in the coordinates of the leaves with these numbers."""
    dy, dx = y - leaves.centre[numbers, 0], x - leaves.centre[numbers, 1]
    matrix = leaves.to_local
    return (
        matrix[numbers, 0, 0] * dy + matrix[numbers, 0, 1] * dx,
        matrix[numbers, 1, 0] * dy + matrix[numbers, 1, 1] * dx,
    )


def _paint(leaves: Leaves, seen: Tensor, rng: torch.Generator) -> Tensor:
    """(rows, cols, 3) on [0, 1]: each leaf's colour, shaded from one side to the other, and textured."""
    count = len(leaves.colour)
    y, x = torch.arange(seen.shape[0]).view(-1, 1), torch.arange(seen.shape[1])
    u, v = _local(leaves, seen, y, x)
    slope = 0.25 * torch.randn((count, 2), generator=rng)
    shade = 1 + slope[seen, 0] * u + slope[seen, 1] * v
    # Most leaves have little texture, few have much.
    strength = 0.35 * torch.rand(count, generator=rng) ** 3
    direction = 1 + 0.3 * torch.randn((count, 3), generator=rng)
    texture = _textured(seen, y, x, count, rng)
    image = leaves.colour[seen] * shade[..., None]
    image += texture[..., None] * ((0.1 + leaves.colour) * strength[:, None] * direction)[seen]
    return image.clamp_(0, 1)


def _textured(seen: Tensor, y: Tensor, x: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """(rows, cols): the texture at each place. Each leaf has one of a few, turned, scaled and moved."""
    patterns = _patterns(rng)
    which = torch.randint(TEXTURES, (count,), generator=rng)
    # Of scales below 1 the texture's steps would be seen.
    matrix = _turns(count, rng) * 2 ** _uniform((count, 1, 1), 0, 2, rng)
    start = torch.randint(TEXTURE_SIDE, (count, 2), generator=rng)
    row, col = (
        (start[seen, axis] + matrix[seen, axis, 0] * y + matrix[seen, axis, 1] * x).long() % TEXTURE_SIDE
        for axis in (0, 1)
    )
    return patterns[which[seen], row, col]


def _patterns(rng: torch.Generator) -> Tensor:
    """(TEXTURES, side, side), each repeating without a seam, of mean 0 and variance 1.

    The first half is noise of a band of frequencies, drawn out in one direction; the others are stripes, which
    the noise bends, sharpened to various degrees.
    """
    side, half = TEXTURE_SIDE, TEXTURES // 2
    fy, fx = torch.fft.fftfreq(side).view(-1, 1), torch.fft.rfftfreq(side)
    stretch = 2 ** _uniform((half, 1, 1), 0, 3, rng)
    frequency = (fy.square() + (stretch * fx).square()).sqrt()
    middle = 2 ** _uniform((half, 1, 1), -6, -2, rng)
    # Power laws on both sides of the band: within it the noise has all its scales.
    response = 1 / ((frequency / middle) ** 1.5 + (middle / frequency.clamp(min=1 / side)))
    response[:, 0, 0] = 0
    white = torch.randn((half, side, side), generator=rng)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * response, s=(side, side))
    noise = noise / noise.std((1, 2), keepdim=True)
    waves = torch.randint(4, 48, (half, 1, 1), generator=rng)
    phase = torch.arange(side) * (2 * math.pi / side) * waves
    bend = _uniform((half, 1, 1), 0, 2, rng)
    stripes = (2 ** _uniform((half, 1, 1), 0, 2, rng) * (phase + bend * noise).sin()).tanh()
    stripes = stripes - stripes.mean((1, 2), keepdim=True)
    return torch.cat((noise, stripes / stripes.std((1, 2), keepdim=True)))


def _waves(leaves: Leaves, seen: Tensor, rng: torch.Generator) -> Tensor:
    """(rows, cols) on [0, 1]: how much ink each place has. A leaf has two waves of one period, crossing."""
    count = len(leaves.colour)
    y, x = torch.arange(seen.shape[0]).view(-1, 1), torch.arange(seen.shape[1])
    dy, dx = y - leaves.centre[seen, 0], x - leaves.centre[seen, 1]
    turn = _turns(count, rng)
    shortest, longest = PERIODS
    # More of the shorter ones: they are what a network does not know.
    octave = shortest + (longest - shortest) * torch.rand(count, generator=rng).square()
    frequency = 2**-octave / OVERSAMPLING
    # The period changes across a leaf, as that of what is bent or seen from the side does.
    change = 0.5 * torch.randn((2, count), generator=rng) / max(seen.shape)
    waves = []
    for axis in (0, 1):
        along = turn[seen, axis, 0] * dy + turn[seen, axis, 1] * dx
        waves.append((2 * math.pi * frequency[seen] * along * (1 + change[axis][seen] * along)).sin())
    first, second = waves
    # Stripes twice as often as the other two.
    kind = torch.randint(4, (count,), generator=rng)[seen]
    wave = torch.where(kind == 0, first * second, torch.where(kind == 1, (first + second) / 2, first))
    steep = 2 ** _uniform((count,), 0, STEEPEST, rng)[seen]
    return 0.5 + 0.5 * (steep * wave).tanh() / steep.tanh()


def _inks(colour: Tensor, rng: torch.Generator) -> Tensor:
    """(N, 3): for each leaf its own colour, lighter or darker, or one beyond another leaf's, seen from it."""
    shade = colour * 2 ** _uniform((len(colour), 1), -2.5, 2.5, rng)
    other = colour[torch.randperm(len(colour), generator=rng)]
    own = torch.rand((len(colour), 1), generator=rng) < 0.5
    return torch.where(own, shade, torch.lerp(colour, other, CONTRAST)).clamp(0, 1)


def _page(rows: int, cols: int, rng: torch.Generator) -> Tensor:
    """(rows, cols, 3) on [0, 1]: lines of letters in no order, unevenly lit."""
    usual = _uniform((), *SIZES, rng)
    lines, top = [], 0
    while top < rows:
        size = round(OVERSAMPLING * 2 ** float(usual + _uniform((), -0.3, 0.3, rng)))
        # No letter is narrower than a fifth of its size.
        letters = torch.randint(len(LETTERS), (5 * cols // size,), generator=rng)
        lines.append(text.Line(top, size, "".join(LETTERS[letter] for letter in letters.tolist())))
        top += round(1.3 * size)
    paper = float(torch.rand((), generator=rng))
    ink = (paper + float(_uniform((), LEAST_INK, 1 - LEAST_INK, rng))) % 1
    tint = 1 + 0.1 * torch.randn((2, 3), generator=rng)
    slope = 0.2 * torch.randn(2, generator=rng)
    y, x = torch.linspace(-1, 1, rows).view(-1, 1, 1), torch.linspace(-1, 1, cols).view(-1, 1)
    written = text.write(lines, rows, cols).unsqueeze(2)
    return torch.lerp(paper * tint[0], ink * tint[1], written) * (1 + slope[0] * y + slope[1] * x)


def _check(height: int, width: int) -> None:
    if min(height, width) < 1:
        raise ValueError(f"an image has at least 1 x 1 pixels; got {width} x {height}")


def _in_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def _average_down(image: Tensor) -> Tensor:
    rows, cols = (side // OVERSAMPLING for side in image.shape[:2])
    return image.view(rows, OVERSAMPLING, cols, OVERSAMPLING, 3).mean((1, 3))


def _focus(sharp: Tensor, rng: torch.Generator) -> Tensor:
    """Parts of the image out of focus; smaller by SOFTENING a side, as no border is made up."""
    soft = sharp
    for _ in range(SOFTENING):
        soft = (soft[1:] + soft[:-1]) / 2
        soft = (soft[:, 1:] + soft[:, :-1]) / 2
    height, width = soft.shape[:2]
    margin = SOFTENING // 2
    # A plane through the scene: sharp on the one side, unsharp on the other.
    tilt = 2 * torch.randn(2, generator=rng)
    start = float(torch.randn((), generator=rng)) + 2
    y, x = torch.linspace(-1, 1, height).view(-1, 1, 1), torch.linspace(-1, 1, width).view(-1, 1)
    share = (start + tilt[0] * y + tilt[1] * x).clamp(0, 1)
    return soft + share * (sharp[margin : margin + height, margin : margin + width] - soft)


def _turns(count: int, rng: torch.Generator) -> Tensor:
    """(count, 2, 2): rotations."""
    angle = _uniform((count,), 0, 2 * math.pi, rng)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1)


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)
