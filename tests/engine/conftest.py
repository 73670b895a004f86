"""A training log, for all tests that read one."""

import json

import pytest


@pytest.fixture
def log(tmp_path):
    """A log of four lines, two of them with a PSNR."""
    lines = [{"step": n, "megapixels": n / 10, "loss": 1 / (n + 1), "psnr": 20 + n} for n in range(4)]
    for line in lines[1::2]:
        del line["psnr"]
    file = tmp_path / "run.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
