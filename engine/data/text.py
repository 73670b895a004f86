"""Lines of text as pixels, in the typeface that Pillow brings along."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


class Line(NamedTuple):
    """A line of text from the left border on. top, size: in pixels, size of the font."""

    top: int
    size: int
    text: str


def write(lines: Iterable[Line], height: int, width: int) -> Tensor:
    """float32 (height, width) on [0, 1]: how much of each pixel the letters cover."""
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for line in lines:
        pen.text((0, line.top), line.text, fill=255, font=ImageFont.load_default(line.size))
    return torch.from_numpy(np.asarray(canvas, np.float32) / 255)
