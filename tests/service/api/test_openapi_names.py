"""Names in the OpenAPI description, from which generators of clients make functions and classes."""

import re

import pytest

METHODS = {"get", "put", "post", "delete", "patch", "head"}


@pytest.fixture(scope="module")
def described(client):
    return client.get("/openapi.json").json()


@pytest.fixture(scope="module")
def operations(described):
    return {
        f"{method.upper()} {path}": operation
        for path, item in described["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def test_operation_ids_are_good_names_of_functions(operations):
    ids = {route: operation["operationId"] for route, operation in operations.items()}

    assert len(set(ids.values())) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in ids.values()), ids
    assert ids["POST /denoise"] == "denoise_image"
    assert ids["GET /jobs/{id}/result"] == "get_job_result"


def test_operations_have_summaries_in_words(operations):
    summaries = [operation["summary"] for operation in operations.values()]

    assert len(set(summaries)) == len(summaries)
    assert all(re.fullmatch(r"[A-Z][a-z -]+", text) for text in summaries), summaries
    assert all(operation["description"] for operation in operations.values())


def test_every_operation_is_in_one_described_group(described, operations):
    groups = {tag["name"] for tag in described["tags"] if tag["description"]}

    assert {tuple(operation["tags"]) for operation in operations.values()} == {(name,) for name in groups}


def test_every_error_is_one_class(described, operations):
    schemas = [
        answer["content"]["application/problem+json"]["schema"]
        for operation in operations.values()
        for status, answer in operation["responses"].items()
        if status >= "400"
    ]

    assert schemas
    assert all(schema == {"$ref": "#/components/schemas/Problem"} for schema in schemas)
    assert {"title", "status", "detail"} <= set(described["components"]["schemas"]["Problem"]["properties"])


def test_no_operation_is_for_head(operations):
    assert not [route for route in operations if route.startswith("HEAD")]
