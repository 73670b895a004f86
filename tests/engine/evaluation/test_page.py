"""Pages: where the crops are, and images inside the page."""

import base64
import io

import torch
from PIL import Image

from engine.evaluation.page import data_url, densest, detail


def test_the_densest_place_is_where_most_weight_lies_together():
    weight = torch.zeros(9, 12)
    weight[2, 3] = 5
    weight[5:7, 6:9] = 1

    assert densest(weight, (1, 1)) == (2, 3)
    assert densest(weight, (2, 3)) == (5, 6)
    assert densest(weight, (9, 12)) == (0, 0)


def test_detail_is_where_neighbours_differ():
    image = torch.zeros(6, 8, 1)
    image[:, 4:] = 1

    assert detail(image).nonzero()[:, 1].unique().tolist() == [4]


def test_an_image_in_the_page_is_a_png_with_its_samples():
    samples = torch.arange(12, dtype=torch.uint8).view(3, 4, 1)

    head, data = data_url(samples).split(",")

    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        assert opened.size == (4, 3)
        assert opened.tobytes() == bytes(range(12))
