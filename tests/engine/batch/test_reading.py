"""Reading of image files in another process."""

import sys

import numpy as np
import pytest
import torch

from engine.batch.reading import READ_HERE, sandboxed
from engine.defaults import COLOUR
from engine.imageio.sandbox import decoder
from engine.imageio.sandbox.fork_server import ForkServer
from tests.support.raw_files import dng
from tests.support.sick_codecs import SETUP, sick


@pytest.fixture
def png(file_of):
    return file_of(np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8))


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
@pytest.mark.parametrize(
    ("crash", "message"), [("crash", "ended with SIGSEGV"), ("leave", "ended with exit code 3")]
)
def test_a_file_that_crashes_its_codec_fails_alone(crash, message, png, monkeypatch):
    server = ForkServer(SETUP)
    monkeypatch.setattr(decoder, "ForkServer", lambda: server)

    with sandboxed() as reader:
        with pytest.raises(ValueError, match=message):
            reader.read(sick(crash), None, COLOUR)
        fine = reader.read(png, None, COLOUR)

    assert fine.kind.name == "png"


def test_another_process_reads_what_this_one_would(png):
    with sandboxed() as reader:
        there, here = reader.read(png, None, COLOUR), READ_HERE.read(png, None, COLOUR)

    assert torch.equal(there.pages[0].samples, here.pages[0].samples)
    assert there.kind is here.kind


def test_another_process_gets_the_page_and_the_colours(png):
    with sandboxed() as reader:
        assert reader.read(dng(), 1, "prophoto").kind.name == "raw"
        with pytest.raises(ValueError, match="camera raw files only"):
            reader.read(png, None, "prophoto")
        with pytest.raises(ValueError, match="no page 2"):
            reader.read(png, 2, COLOUR)


def test_systems_without_a_sandbox_read_in_this_process(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")

    with sandboxed() as reader:
        assert reader is READ_HERE
