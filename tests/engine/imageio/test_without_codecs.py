"""Image files without the optional codecs: Pillow reads and writes 8-bit files."""

import subprocess
import sys

from tests.support.raw_files import nef

# Runs before the program: the packages behave as if they were not installed.
BLOCK = """
import sys

class Blocked:
    packages = {
        "astropy", "czifile", "imagecodecs", "mrcfile", "nd2", "pillow_heif", "rawpy", "tifffile",
        "fastapi", "matplotlib", "pydantic", "rich", "typer",
    }

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""
READ_AND_WRITE = """
import torch
from engine.imageio.formats import FORMATS
from engine.imageio.image import ImageSequence, Image
from engine.imageio.read import read
from engine.imageio.write import encode

noise = torch.randint(256, (9, 7, 3), dtype=torch.uint8)
for name, most in (("png", 0), ("jpeg", 60)):
    written = encode(ImageSequence(FORMATS[name], (Image(noise),)), FORMATS[name], quality=100)
    back = read(written.data).pages[0]
    assert (back.samples.int() - noise.int()).abs().max() <= most, name
"""
REFUSED = """
import sys
from pathlib import Path
import torch
from engine.imageio.formats import FORMATS
from engine.imageio.image import ImageSequence, Image
from engine.imageio.read import read
from engine.imageio.write import encode

for path in sys.argv[1:]:
    try:
        read(Path(path).read_bytes())
    except ValueError as error:
        print(type(error).__name__, error)
try:
    encode(ImageSequence(FORMATS["png"], (Image(torch.zeros(2, 2, 3, dtype=torch.uint8)),)), FORMATS["tiff"])
except ValueError as error:
    print(type(error).__name__, error)
"""


def run_without_codecs(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", BLOCK + program, *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_png_and_jpeg_are_read_and_written_by_pillow_alone():
    run_without_codecs(READ_AND_WRITE)


def test_the_training_job_starts_without_codecs():
    help_text = run_without_codecs(
        "import runpy; sys.argv = ['engine.job', '--help']; runpy.run_module('engine.job', run_name='__main__')"
    )

    assert "usage: python -m engine.job" in help_text


def test_camera_raw_names_the_extra_that_it_needs(tmp_path):
    (tmp_path / "a.nef").write_bytes(nef())

    output = run_without_codecs(REFUSED, str(tmp_path / "a.nef")).splitlines()

    assert output[0].startswith(
        "UnsupportedImage This is a camera's raw file. Reading it needs the Python package"
    )
    assert "pip install 'denoise[raw]'" in output[0]


def test_fits_and_mrc_name_the_extra_that_they_need(tmp_path):
    (tmp_path / "a.fits").write_bytes(b"SIMPLE  =                    T")
    (tmp_path / "a.mrc").write_bytes(bytes(208) + b"MAP " + bytes(1000))

    output = run_without_codecs(REFUSED, str(tmp_path / "a.fits"), str(tmp_path / "a.mrc")).splitlines()

    assert output[0].startswith(
        "UnsupportedImage This is a FITS file. Reading it needs the Python package astropy"
    )
    assert output[1].startswith(
        "UnsupportedImage This is an MRC file. Reading it needs the Python package mrcfile"
    )
    assert all("pip install 'denoise[science]'" in line for line in output[:2])


def test_czi_and_nd2_name_the_extra_that_they_need(tmp_path):
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE" + bytes(1000))
    (tmp_path / "a.nd2").write_bytes(b"\xda\xce\xbe\x0a" + bytes(1000))

    output = run_without_codecs(REFUSED, str(tmp_path / "a.czi"), str(tmp_path / "a.nd2")).splitlines()

    assert output[0].startswith(
        "UnsupportedImage This is a CZI file. Reading it needs the Python package czifile"
    )
    assert output[1].startswith("UnsupportedImage This is an ND2 file. Reading it needs the Python package nd2")
    assert all("pip install 'denoise[microscopy]'" in line for line in output[:2])


def test_a_missing_codec_is_named(tmp_path, file_of, samples):
    tiff, png = tmp_path / "a.tiff", tmp_path / "a.png"
    tiff.write_bytes(file_of(samples(4, 5), "TIFF"))
    png.write_bytes(file_of(samples(4, 5, 1).astype("uint16") * 257))

    output = run_without_codecs(REFUSED, str(tiff), str(png)).splitlines()

    assert output[0].startswith(
        "UnsupportedImage Reading this TIFF file needs the Python package tifffile, which is"
    )
    assert output[1].startswith(
        "UnsupportedImage Reading this PNG file needs the Python package imagecodecs, which"
    )
    assert output[2].startswith(
        "CannotWrite Writing TIFF needs the Python package tifffile, which is not installed."
    )


def test_reading_a_png_imports_no_other_codec():
    program = """
import io, sys
from PIL import Image
from engine.imageio.read import read
file = io.BytesIO()
Image.new("RGB", (4, 5)).save(file, "PNG")
read(file.getvalue())
codecs = {"tifffile", "imagecodecs", "pillow_heif", "rawpy", "astropy", "mrcfile", "czifile", "nd2"}
print(codecs & set(sys.modules))
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert output.stdout.strip() == "set()"
