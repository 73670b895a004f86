"""Text rendering: lines of text and whole pages of random letters, in the typeface that Pillow includes."""

import string
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from engine.data.rng import uniform

LETTERS = string.ascii_letters + string.digits + ".,;:-()" + 12 * " "
# Font sizes of a page, in pixels of the result: the exponent of 2, drawn between these.
SIZE_EXPONENTS = (2.8, 4.8)
# The least difference of brightness between paper and ink, on [0, 1]; the largest is 1 minus this.
MIN_INK_CONTRAST = 0.25


class TextLine(NamedTuple):
    """A line of text that begins at the left border. top, size: in pixels; size is that of the font."""

    top: int
    size: int
    text: str


def render(lines: Iterable[TextLine], height: int, width: int) -> Tensor:
    """float32 (height, width) on [0, 1]: the part of each pixel that the letters cover."""
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for line in lines:
        pen.text((0, line.top), line.text, fill=255, font=ImageFont.load_default(line.size))
    return torch.from_numpy(np.asarray(canvas, np.float32) / 255)


def random_page(height: int, width: int, scale: int, rng: torch.Generator) -> Tensor:
    """A page of random letters under uneven light, float32 (height, width, 3) on about [0, 1].

    scale: how many pixels, along a side, later become one pixel of the result.
    """
    usual = uniform(*SIZE_EXPONENTS, (), rng)
    lines, top = [], 0
    while top < height:
        size = round(scale * 2 ** float(usual + uniform(-0.3, 0.3, (), rng)))
        # No letter is narrower than a fifth of the font size.
        letters = torch.randint(len(LETTERS), (5 * width // size,), generator=rng)
        lines.append(TextLine(top, size, "".join(LETTERS[letter] for letter in letters.tolist())))
        top += round(1.3 * size)
    paper = float(torch.rand((), generator=rng))
    ink = (paper + float(uniform(MIN_INK_CONTRAST, 1 - MIN_INK_CONTRAST, (), rng))) % 1
    tint = 1 + 0.1 * torch.randn((2, 3), generator=rng)
    slope = 0.2 * torch.randn(2, generator=rng)
    y, x = torch.linspace(-1, 1, height).view(-1, 1, 1), torch.linspace(-1, 1, width).view(-1, 1)
    coverage = render(lines, height, width).unsqueeze(2)
    return torch.lerp(paper * tint[0], ink * tint[1], coverage) * (1 + slope[0] * y + slope[1] * x)
