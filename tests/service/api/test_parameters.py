"""Parameters in the query and in the fields of a form: what is taken, and what is refused."""

import io
import json
import zipfile

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.support.problems import assert_problem

ROUTES = ["/denoise", "/denoise/batch", "/jobs", "/estimate", "/preview"]
PAGED = ["/estimate", "/preview"]


@pytest.fixture(scope="module")
def client(settings, tmp_path_factory):
    with TestClient(
        create_app(settings.model_copy(update={"spool": tmp_path_factory.mktemp("spool")}))
    ) as client:
        yield client


def sent(noisy):
    return {"image": ("a.png", noisy)}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("way", ["query", "form"])
def test_a_misspelt_parameter_is_refused_naming_the_nearest(way, route, client, noisy):
    wrong, right = ("pgae", "page") if route in PAGED else ("strenght", "strength")

    given = {"params": {wrong: 0}} if way == "query" else {"data": {wrong: "0"}}
    response = client.post(route, files=sent(noisy), **given)

    assert_problem(response, 422, f"no parameter {wrong!r}. Did you mean {right!r}? POST {route} takes: ")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("Format", "format"), ("fmt", "format"), ("color", "colour"), ("q", "quality"), ("qualtiy", "quality")],
)
def test_the_nearest_parameter_is_found(wrong, right, client, noisy):
    response = client.post("/denoise", params={wrong: "x"}, content=noisy)

    assert_problem(response, 422, f"Did you mean {right!r}?")


def test_a_parameter_like_no_other_is_refused_with_all(client, noisy):
    response = client.post("/denoise", params={"zzz" * 100: "x"}, content=noisy)

    assert_problem(response, 422, "'" + "z" * 100 + "'.", "takes: model, format, quality")
    assert "Did you mean" not in response.json()["detail"]


@pytest.mark.parametrize("route", ["GET /jobs", "GET /models", "DELETE /jobs/any", "POST /models/photo/rollback"])
def test_a_route_without_parameters_refuses_all(route, client):
    method, path = route.split()

    assert_problem(
        client.request(method, path, params={"limit": 9}), 422, "'limit'", f"{route} takes no parameters"
    )


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/metrics", "/openapi.json"])
def test_monitors_and_caches_may_add_parameters(path, client):
    assert client.get(path, params={"_": "1234"}).status_code == 200


def test_a_parameter_with_two_values_is_refused(client, noisy):
    response = client.post("/denoise?strength=0.5&strength=1", content=noisy)

    assert_problem(response, 422, "'strength' twice, as '0.5' and as '1'")
    assert client.post("/denoise?strength=0.5&strength=0.5", content=noisy).status_code == 200


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_fields_of_a_form_are_parameters(order, client, noisy):
    by_query = client.post("/denoise", params={"format": "webp", "strength": 0.5, "force": True}, content=noisy)

    fields = [("format", (None, "webp")), ("strength", (None, "0.5")), ("force", (None, "true"))]
    parts = [*fields, ("image", ("a.png", noisy))]
    by_form = client.post("/denoise", files=parts if order == "before" else parts[::-1])

    assert by_form.headers["content-type"] == "image/webp"
    assert by_form.content == by_query.content != client.post("/denoise", content=noisy).content


def test_the_fields_of_a_form_win_over_the_accept_header(client, noisy):
    headers = {"accept": "image/heic"}

    assert_problem(client.post("/denoise", files=sent(noisy), headers=headers), 406, "image/heic")
    answer = client.post("/denoise", files=sent(noisy), data={"format": "tiff"}, headers=headers)
    assert answer.headers["content-type"] == "image/tiff"


def test_a_batch_and_a_job_take_the_fields_of_their_form(client, noisy):
    at_once = client.post("/denoise", params={"format": "jpeg", "strength": 0.5}, content=noisy)
    fields = {"format": "jpeg", "strength": "0.5"}

    batch = client.post("/denoise/batch", files=sent(noisy), data=fields)
    job = client.post("/jobs", files=sent(noisy), data=fields)

    with zipfile.ZipFile(io.BytesIO(batch.content)) as made:
        assert made.read("a.jpg") == at_once.content
    assert job.json()["name"] == "a.jpg"
    list(client.get(f"{job.headers['location']}/events").iter_lines())
    assert client.get(f"{job.headers['location']}/result").content == at_once.content


@pytest.mark.parametrize("route", PAGED)
def test_the_page_may_be_a_field(route, client, noisy):
    response = client.post(route, files=sent(noisy), data={"page": "2"})

    assert_problem(response, 422, "There is no page 2")


@pytest.mark.parametrize("route", ROUTES)
def test_query_and_form_must_not_contradict_each_other(route, client, noisy):
    response = client.post(route, params={"page": 1}, files=sent(noisy), data={"page": "2"})

    assert_problem(response, 422, "'page' is '1' in the query and '2' in the form")


def test_query_and_form_may_agree_or_add_to_each_other(client, noisy):
    params = {"strength": 0.5, "format": "webp"}
    fields = {"strength": ".50", "chroma": "0.5", "quality": ""}

    answer = client.post("/denoise", params=params, files=sent(noisy), data=fields)

    assert answer.status_code == 200
    assert answer.content == client.post("/denoise", params=params | {"chroma": 0.5}, content=noisy).content


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"strength": "2"}, 422, "form.strength: Input should be less than or equal to 1.5"),
        ({"page": "one"}, 422, "form.page: Input should be a valid integer"),
        ({"format": "bmp"}, 422, "BMP can be read but not written"),
        ({"model": "films"}, 404, "'films'"),
    ],
)
@pytest.mark.parametrize("route", ["/denoise", "/denoise/batch", "/jobs"])
def test_invalid_fields_are_refused_like_parameters(route, fields, status, words, client, noisy):
    assert_problem(client.post(route, files=sent(noisy), data=fields), status, words)


@pytest.mark.parametrize("route", ["/denoise", "/estimate", "/preview"])
def test_two_images_are_refused_naming_the_batch(route, client, noisy):
    response = client.post(route, files=[("image", ("a.png", noisy)), ("image", ("b.png", noisy))])

    assert_problem(
        response, 422, f"more than one file in the field 'image', and {route} takes one", "/denoise/batch"
    )


@pytest.mark.parametrize("route", ROUTES)
def test_openapi_describes_the_fields_of_a_form(route, client):
    described = client.get("/openapi.json").json()["paths"][route]["post"]
    form = described["requestBody"]["content"]["multipart/form-data"]["schema"]

    parameters = {each["name"] for each in described["parameters"] if each["in"] == "query"}
    assert set(form["properties"]) == parameters | {"image"}
    assert form["required"] == ["image"]
    assert form["additionalProperties"] is False
    assert form["properties"]["page"] == {
        "type": "integer",
        "minimum": 1,
        "description": form["properties"]["page"]["description"],
    }
    assert "null" not in json.dumps(form)
