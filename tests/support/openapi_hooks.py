"""Hooks for schemathesis: images and zips of images for bodies that the OpenAPI description calls "binary"."""

import io
import zipfile

import schemathesis
from hypothesis import strategies
from PIL import Image


def image(kind, mode="RGB", size=(7, 5)):
    file = io.BytesIO()
    Image.new(mode, size, 1).save(file, kind)
    return file.getvalue()


def zipped(*files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, data in enumerate(files):
            archive.writestr(f"{number}.image", data)
    return file.getvalue()


IMAGES = [image("PNG"), image("JPEG"), image("WEBP"), image("TIFF", "L", (1, 9))]

schemathesis.openapi.format("binary", strategies.sampled_from(IMAGES))
schemathesis.openapi.media_type("application/octet-stream", strategies.sampled_from(IMAGES))
schemathesis.openapi.media_type("application/zip", strategies.just(zipped(*IMAGES, b"no image")))


@schemathesis.hook
def before_call(context, case, kwargs):
    """Replaces what OpenAPI cannot exclude: pages that the images lack, and a choice for raw files only."""
    page = case.query.get("page")
    # schemathesis gives some values as text.
    if str(page).isdecimal() and int(page) > 1:
        case.query["page"] = type(page)(1)
    if case.query.get("colour") == "prophoto":
        case.query["colour"] = "srgb"
