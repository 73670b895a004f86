"""A service with small limits for batches, and a batch of three images."""

import pytest

from tests.support.problems import MAX_BYTES


@pytest.fixture(scope="module")
def settings(settings):
    return settings.model_copy(update={"max_batch_bytes": 10 * MAX_BYTES, "max_batch_files": 9})


@pytest.fixture(scope="module")
def shots(samples, file_of):
    """Three images with their names."""
    return [
        ("day/b.png", file_of(samples(21, 34, seed=1))),
        ("day/a.jpg", file_of(samples(9, 30, seed=2), "JPEG", quality=95)),
        ("c.webp", file_of(samples(8, 8, seed=3), "WEBP", lossless=True)),
    ]
