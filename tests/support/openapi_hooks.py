"""Hooks for schemathesis: images and zips of images for bodies that the OpenAPI description calls "binary"."""

import io
import os
import re
import secrets
import zipfile
from pathlib import Path

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


# A weights file, for the route that takes one.
WEIGHTS = Path(os.environ["OPENAPI_WEIGHTS"]).read_bytes()
IMAGES = [image("PNG"), image("JPEG"), image("WEBP"), image("TIFF", "L", (1, 9))]

schemathesis.openapi.format("binary", strategies.sampled_from(IMAGES))
schemathesis.openapi.media_type("application/octet-stream", strategies.sampled_from(IMAGES))
schemathesis.openapi.media_type("application/zip", strategies.just(zipped(*IMAGES, b"no image")))

# Parameters of task=adapt alone.
ADAPTING = {"minutes", "kind", "start", "seed", "name"}


@schemathesis.hook
def filter_case(context, case):
    """Leaves out forms that are refused for what OpenAPI cannot say. (A changed form would count as invalid.)"""
    return not isinstance(case.body, dict) or possible(dict(case.body)) == case.body


@schemathesis.hook
def before_call(context, case, kwargs):
    """Replaces the same in the query, and leaves out what may differ from the form. Uses no key twice."""
    possible(case.query)
    if "Idempotency-Key" in (case.headers or {}) and case.meta.generation.mode.is_positive:
        case.headers["Idempotency-Key"] = secrets.token_hex(8)
    if case.operation.label == "PUT /models/{name}" and case.meta.generation.mode.is_positive:
        case.body = WEIGHTS
    if isinstance(case.body, dict) and case.meta.generation.mode.is_positive:
        others = ADAPTING if case.body.get("task") == "denoise" else set()
        for name in case.query.keys() & (case.body.keys() | others):
            del case.query[name]


def possible(given):
    """The parameters without what the images lack, points in the wrong order, and a choice for raw files only."""
    page = given.get("page")
    # schemathesis gives some values as text.
    if str(page).isdecimal() and int(page) > 1:
        given["page"] = type(page)(1)
    if re.fullmatch(r"\d{1,9}(,\d{1,9}){3}", str(given.get("crop"))):
        given["crop"] = "0,0,1,1"
    for point in ("black", "white"):
        if _is_number(given.get(point)):
            given[point] = "auto"
    if given.get("colour") == "prophoto":
        given["colour"] = "srgb"
    # These belong to a task that the service, as it is tested, refuses with 403.
    if given.keys() & ADAPTING and given.get("task", "denoise") == "denoise":
        given["task"] = "adapt"
    return given


def _is_number(value):
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
