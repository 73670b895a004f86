"""HTML pages: the template of all reports, and images and crops inside them.

A page is one file with everything in it: no scripts, and nothing is loaded from elsewhere. It follows the
reader's light or dark mode.
"""

import base64
from collections.abc import Mapping
from typing import Any

import jinja2
import torch
from torch import Tensor

from engine.imageio.image import Image
from engine.imageio.write import encode_png

# Compression of the images, zlib's 0 to 9.
PNG_LEVEL = 6


def render(package: str, template: str, values: Mapping[str, Any]) -> str:
    """The page. package: which has the template; it may extend `base.html` and import `macros.html`."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("engine.evaluation")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(values)


def data_url(samples: Tensor) -> str:
    """An image in the page. uint8, (H, W, 1 or 3)."""
    png = encode_png(Image(samples.contiguous()), PNG_LEVEL)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def densest(weight: Tensor, side: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the rectangle of that height and width with the largest sum of weight (H, W)."""
    total = torch.zeros(weight.shape[0] + 1, weight.shape[1] + 1, dtype=torch.float64)
    total[1:, 1:] = weight.double().cumsum(0).cumsum(1)
    high, wide = side
    sums = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    best = int(sums.argmax())
    return best // sums.shape[1], best % sums.shape[1]


def detail(image: Tensor) -> Tensor:
    """(H, W, C) -> (H, W): squares of the differences between neighbours."""
    squares = torch.zeros(image.shape[:2])
    squares[1:] += (image[1:] - image[:-1]).square().mean(2)
    squares[:, 1:] += (image[:, 1:] - image[:, :-1]).square().mean(2)
    return squares
