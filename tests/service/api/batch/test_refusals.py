"""POST /denoise/batch: requests that are refused before the zip begins, and their description."""

import pytest

from service.params import DenoiseParams
from tests.service.api.batch.batch_client import WAYS, as_form, as_zip, zipped
from tests.support.problems import MAX_BYTES, assert_problem


@pytest.mark.parametrize(
    ("params", "status", "words"),
    [
        ({"model": "films"}, 404, ["'films'", "photo, scans"]),
        ({"format": "bmp"}, 422, ["BMP can be read but not written"]),
        ({"format": ""}, 422, ["no format ''", "Output formats: jpeg, png"]),
        ({"strength": 2}, 422, ["strength"]),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_invalid_parameters_of_a_batch_are_refused(way, params, status, words, client, shots):
    assert_problem(client.post("/denoise/batch", params=params, **way(shots)), status, *words)


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"content": b""}, 400, ["The zip is broken, cut short or not a zip"]),
        (
            {"content": zipped([("a", bytes(9))])[:-1]},
            400,
            ["broken, cut short or not a zip"],
        ),
        (as_zip([(f"{number}", b"") for number in range(10)]), 413, ["10 files; at most 9 are allowed"]),
        (as_form([(f"{number}", b"") for number in range(10)]), 413, ["more than 9 files"]),
        (as_zip([("a", bytes(10 * MAX_BYTES))]), 413, ["at most 200000 are allowed"]),
        ({"files": {"photo": b""}}, 422, ["'image'", "photo"]),
    ],
)
def test_an_invalid_batch_is_refused_before_the_zip_begins(sent, status, words, client):
    assert_problem(client.post("/denoise/batch", **sent), status, *words)


def test_openapi_has_both_bodies_and_every_error(client):
    route = client.get("/openapi.json").json()["paths"]["/denoise/batch"]["post"]

    assert set(route["requestBody"]["content"]) == {"multipart/form-data", "application/zip"}
    assert set(route["responses"]) == {"200", "400", "401", "404", "413", "415", "422", "429", "503", "507"}
    assert set(route["responses"]["200"]["content"]) == {"application/zip"}
    assert {each["name"] for each in route["parameters"]} == set(DenoiseParams.model_fields)
