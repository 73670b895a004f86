"""POST /denoise/batch: the images of the zip, their order and names, and problems in place of images."""

import io
import json
import logging
import zipfile

import numpy as np
import pytest

from engine.imageio.read import read as read_file
from engine.imageio.sandbox.decoder import Decoder
from tests.service.api.batch.batch_client import WAYS, as_form, as_zip, unzipped, zipped
from tests.support.problems import MAX_BYTES


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_gives_each_image_in_order_and_by_name(way, client, shots):
    alone = [client.post("/denoise", content=data).content for _, data in shots]

    together = unzipped(client.post("/denoise/batch", **way(shots)))

    assert together == list(zip(["day/b.png", "day/a.png", "c.png"], alone, strict=True))


def test_parameters_apply_to_every_image(client, shots):
    params = {"model": "scans", "format": "jpeg", "quality": 70, "strength": 0.5, "output": "compare"}
    alone = [client.post("/denoise", params=params, content=data).content for _, data in shots]

    together = unzipped(client.post("/denoise/batch", params=params, **as_zip(shots)))

    assert together == list(zip(["day/b.jpg", "day/a.jpg", "c.jpg"], alone, strict=True))


def test_the_format_that_came_keeps_its_suffix(client, samples, file_of):
    jpeg, webp = file_of(samples(8, 8), "JPEG"), file_of(samples(8, 8), "WEBP")
    sent = [("a.JPEG", jpeg), ("b", jpeg), ("c.jpg", webp)]

    together = unzipped(client.post("/denoise/batch", params={"format": "same"}, **as_form(sent)))

    assert [name for name, _ in together] == ["a.JPEG", "b.jpg", "c.webp"]


def test_an_images_comment_has_the_headers_of_post_denoise(client, shots, file_of):
    deep = file_of(np.zeros((8, 8), np.uint16))
    params = {"format": "jpeg"}
    alone = client.post("/denoise", params=params, content=deep).headers
    names = ("x-denoise-model", "x-denoise-digest", "x-denoise-changed")

    response = client.post("/denoise/batch", params=params, **as_form([("deep.png", deep)]))
    [info] = zipfile.ZipFile(io.BytesIO(response.content)).infolist()
    headers = dict(line.split(": ", 1) for line in info.comment.decode().lower().splitlines())

    assert {name: headers[name] for name in names} == {name: alone[name].lower() for name in names}


def test_a_failed_image_is_replaced_by_its_problem(client, shots, file_of):
    bad = [
        ("cut.png", shots[0][1][:-300]),
        ("text.jpg", b"no image"),
        ("paper.pdf", b"%PDF-1.7 and so on"),
        ("large.png", file_of(np.zeros((50, 41), np.uint8))),
        ("bytes.png", bytes(MAX_BYTES + 1)),
    ]
    alone = [client.post("/denoise", content=data).json() for _, data in bad[:-1]]

    together = unzipped(client.post("/denoise/batch", **as_zip([bad[0], shots[0], *bad[1:], shots[1]])))
    problems = [json.loads(data) for name, data in together if name.endswith(".error.json")]

    assert [name for name, _ in together] == [
        "cut.png.error.json",
        "day/b.png",
        "text.jpg.error.json",
        "paper.pdf.error.json",
        "large.png.error.json",
        "bytes.png.error.json",
        "day/a.png",
    ]
    assert problems[:-1] == alone
    assert problems[-1]["status"] == 413


def test_malicious_files_in_a_zip_are_replaced_by_a_problem(client, shots):
    data = shots[0][1]
    sent = [
        ("../../up.png", data),
        ("/etc/passwd", data),
        ("C:\\a.png", data),
        ("in.zip", zipped(shots)),
        shots[2],
    ]

    together = unzipped(client.post("/denoise/batch", **as_zip(sent)))

    assert [name for name, _ in together] == [
        "up.png.error.json",
        "etc/passwd.error.json",
        "C_/a.png.error.json",
        "in.zip.error.json",
        "c.png",
    ]
    assert [json.loads(data)["status"] for name, data in together[:-1]] == [400, 400, 400, 415]


def test_names_that_clash_get_a_number(client, shots):
    data = shots[0][1]
    names = ["a.png", "a.jpg", "A.webp", "a-2.png", "b/a.png", "no.txt", "no.txt"]
    sent = [(name, b"none" if name == "no.txt" else data) for name in names]

    together = unzipped(client.post("/denoise/batch", **as_form(sent)))

    assert [name for name, _ in together] == [
        "a.png",
        "a-2.png",
        "A-3.png",
        "a-2-2.png",
        "b/a.png",
        "no.txt.error.json",
        "no.txt-2.error.json",
    ]


def test_a_bug_costs_its_own_image_alone_and_is_in_the_log(client, shots, monkeypatch, caplog):
    def buggy(decoder, file, *args):
        data = file.read()
        if data == shots[0][1]:
            raise RuntimeError("a secret of the house")
        return read_file(data, *args[:-1])

    monkeypatch.setattr(Decoder, "read", buggy)
    with caplog.at_level(logging.ERROR):
        first, second, _ = unzipped(client.post("/denoise/batch", **as_zip(shots)))

    assert first[0] == "day/b.png.error.json"
    assert json.loads(first[1])["status"] == 500
    assert b"secret" not in first[1]
    assert "a secret of the house" in caplog.text
    assert second[0] == "day/a.png"


def test_the_accept_header_applies_to_the_zip(client, shots):
    for accept in ("application/zip", "image/webp"):
        sent = as_form(shots[:1]) | {"headers": {"accept": accept}}

        assert [name for name, _ in unzipped(client.post("/denoise/batch", **sent))] == ["day/b.png"]
