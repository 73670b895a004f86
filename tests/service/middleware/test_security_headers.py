"""Security headers, CORS, and paths behind a proxy."""

import re

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.runtime import stages
from service.settings import Settings

ORIGIN = "https://images.example"


@pytest.fixture(scope="module")
def settings(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors", seed=0)
    return Settings(weights=folder, model="photo", device="cpu", precision="float32")


@pytest.fixture
def ask(settings):
    """ask(method, path, headers, **settings): the answer of a service with these settings."""

    def ask(method, path, headers=None, content=None, **given):
        with TestClient(create_app(settings.model_copy(update=given)), raise_server_exceptions=False) as client:
            return client.request(method, path, headers=headers, content=content)

    return ask


def assert_safe(response):
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert "private" in response.headers["cache-control"]


@pytest.mark.parametrize(
    "path", ["/", "/page/page.js", "/docs", "/docs/files/swagger-ui.css", "/health", "/none"]
)
def test_every_answer_has_the_security_headers(path, ask):
    assert_safe(ask("GET", path))


def test_an_answer_to_a_bug_has_the_security_headers(ask, samples, file_of, monkeypatch):
    def buggy(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(stages, "TiledDenoiser", buggy)
    response = ask("POST", "/denoise", content=file_of(samples(8, 8)))

    assert response.status_code == 500
    assert_safe(response)


PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization",
}


def test_without_origins_there_are_no_cors_headers(ask):
    plain, preflight = ask("GET", "/health", {"origin": ORIGIN}), ask("OPTIONS", "/denoise", PREFLIGHT)

    assert not [name for name in (*plain.headers, *preflight.headers) if name.startswith("access-control")]
    assert preflight.status_code == 405


def test_a_configured_origin_may_post_and_read_answers(ask):
    given = {"cors_origins": f"http://localhost:3000, {ORIGIN}", "keys": f"web:{'x' * 40}"}
    preflight = ask("OPTIONS", "/denoise", PREFLIGHT, **given)
    refused = ask("POST", "/denoise", {"origin": ORIGIN}, **given)

    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert "DELETE" in preflight.headers["access-control-allow-methods"]
    assert refused.status_code == 401
    for answer in (preflight, refused):
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-credentials" not in answer.headers
    assert refused.headers["access-control-expose-headers"] == "*"


def test_another_origin_gets_no_cors_headers(ask):
    other = PREFLIGHT | {"origin": "https://images.example.evil.example"}

    assert "access-control-allow-origin" not in ask("OPTIONS", "/denoise", other, cors_origins=ORIGIN).headers


def test_page_and_docs_find_their_files_under_a_root_path(settings):
    with TestClient(create_app(settings), root_path="/images") as client:
        page, docs = client.get("/images/"), client.get("/images/docs")
        files = [("/images/", file) for file in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)]
        files += [("/images/docs", file) for file in re.findall(r'(?:src|href)="([^"]+)"', docs.text)]
        [description] = re.findall(r"url: '([^']+)'", docs.text)

        assert len(files) >= 6
        for base, file in files:
            assert client.get(str(client.base_url.join(base).join(file))).status_code == 200, file
        assert client.get(description).json()["servers"] == [{"url": "/images"}]


@pytest.mark.parametrize(("method", "path"), [("GET", "/images/health"), ("GET", "/images/models")])
def test_a_root_path_does_not_change_who_needs_a_key(method, path, settings):
    app = create_app(settings.model_copy(update={"keys": f"web:{'x' * 40}"}))
    with TestClient(app, root_path="/images") as client:
        answer = client.request(method, path)

    assert answer.status_code == (200 if path.endswith("health") else 401)
