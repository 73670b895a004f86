"""The HTTP reference in service/README.md, compared with the application."""

import re
from pathlib import Path

import pytest

from service.params import DenoiseParams

README = (Path(__file__).parents[2] / "service" / "README.md").read_text()


@pytest.fixture(scope="module")
def paths(client):
    return client.get("/openapi.json").json()["paths"]


def test_the_readme_lists_every_route(paths):
    listed = set(re.findall(r"`([A-Z]+ /[^`]*)`", README.split("## Routes")[1].split("##")[0]))

    assert {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} <= listed


def test_the_readme_lists_every_parameter():
    listed = README.split("## Parameters")[1].split("##")[0]

    assert [name for name in DenoiseParams.model_fields if f"`{name}`" not in listed] == []


def test_the_readme_lists_every_error_status(paths):
    listed = set(re.findall(r"^\| (\d{3}) \|", README, re.MULTILINE))
    answered = {
        status for methods in paths.values() for route in methods.values() for status in route["responses"]
    }

    assert {status for status in answered if status >= "400"} <= listed


def test_the_readme_lists_every_header_of_an_image(paths):
    headers = paths["/denoise"]["post"]["responses"]["200"]["headers"]

    assert [name for name in headers if f"| `{name}` |" not in README] == []


def test_links_inside_the_readme_lead_to_its_sections():
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}

    assert set(re.findall(r"\]\(#([^)]*)\)", README)) <= anchors


def test_the_readme_names_every_operation_for_generated_clients(paths):
    listed = README.split("### Generated clients")[1].split("##")[0]

    operations = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert [name for name in operations if f"`{name}`" not in listed] == []
