"""Boxes: parts of an image, in its pixels: left, top, right and bottom."""

from engine.imageio.image import Image
from service.problems import ProblemError
from service.runtime.rendering import crop

# Neighbouring pixels that are denoised with a part, so that parts join without a seam. With the shipped networks,
# parts differ from the image denoised whole by at most 0.15 of 255; with 48 pixels by 0.9, with 32 by 5.
HALO = 64
# Where a part that is denoised may begin: the networks halve the image several times.
GRID = 32

Box = tuple[int, int, int, int]


class OutsideImage(ProblemError):
    """A part that reaches beyond the image."""

    status = 422


def box_of(text: str | None, image: Image) -> Box:
    """Left, top, right and bottom of a part, or of the whole image."""
    height, width = image.samples.shape[:2]
    if text is None:
        return 0, 0, width, height
    left, top, across, down = (int(part) for part in text.split(","))
    if not across or not down or left + across > width or top + down > height:
        raise OutsideImage(
            f"The crop {text} is empty or reaches beyond the image, which has {width} x {height} pixels. "
            "Give left, top, width and height of a part."
        )
    return left, top, left + across, top + down


def factor_for(side: int | None, box: Box) -> int:
    """By how much a part is reduced, for its longer side to have so many pixels at most."""
    left, top, right, bottom = box
    return max(1, -(-max(right - left, bottom - top) // side)) if side else 1


def around(box: Box, whole: Box, passes: int) -> Box:
    """The part with its surroundings, of which each pass of the network needs some. It begins on the grid."""
    left, top, right, bottom = box
    left, top = (max(0, side - passes * HALO) // GRID * GRID for side in (left, top))
    return left, top, min(whole[2], right + passes * HALO), min(whole[3], bottom + passes * HALO)


def part_of(image: Image, box: Box) -> Image:
    left, top, right, bottom = box
    height, width = image.samples.shape[:2]
    if box == (0, 0, width, height):
        return image
    return crop(image, left, top, right - left, bottom - top)


def moved(box: Box, across: int, down: int) -> Box:
    left, top, right, bottom = box
    return left + across, top + down, right + across, bottom + down


def pixels_of(box: Box) -> int:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)
