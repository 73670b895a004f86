"""Access without keys, and trusted proxies."""

import subprocess
import sys

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from service.app import create_app
from service.auth.dependencies import refuse_unprotected
from service.server.server import Server
from service.settings import Settings
from tests.support.problems import assert_problem

GIVEN = "x" * 40
BEARER = {"authorization": f"Bearer {GIVEN}"}


def test_without_keys_this_machine_may_do_everything(serve, asked, noisy):
    client = serve(asked)

    assert client.post("/denoise", content=noisy).status_code == 200
    assert client.get("/asked").json() == ""
    assert client.post("/change").status_code == 200


def test_nobody_may_change_an_open_service(serve, asked, noisy):
    client = serve(asked, open=True)

    assert client.post("/denoise", content=noisy).status_code == 200
    assert_problem(client.post("/change"), 403, "has no API keys", "needs an admin key")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "scanner"])
def test_without_keys_local_host_names_are_accepted(host, serve, asked):
    assert serve(asked).get("/asked", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.:80"])
def test_without_keys_other_host_names_are_refused(host, serve, asked, noisy):
    response = serve(asked).post("/denoise", content=noisy, headers={"host": host})

    assert_problem(response, 403, repr(host), "--open")
    assert serve(asked, open=True).get("/asked", headers={"host": host}).status_code == 200
    assert serve(asked, keys=f"web:{GIVEN}").get("/asked", headers={"host": host} | BEARER).status_code == 200


@pytest.mark.parametrize(
    ("site", "origin", "status"),
    [
        ("cross-site", "https://evil.example", 403),
        ("same-site", "http://localhost:3000", 403),
        ("cross-site", None, 403),
        ("cross-site", "https://images.example", 200),
        ("same-origin", "http://localhost:8000", 200),
        ("none", None, 200),
    ],
)
def test_without_keys_pages_of_other_sites_cannot_post(site, origin, status, serve, asked):
    client = serve(asked, cors_origins="https://images.example")
    headers = {"sec-fetch-site": site} | ({"origin": origin} if origin else {})

    assert client.post("/change", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://evil.example", "localhost:8000", 403),
        ("https://evil.example", "127.0.0.1:8000", 403),
        ("null", "localhost:8000", 403),
        ("null", "", 403),
        ("", "localhost:8000", 403),
        ("http://localhost:3000", "localhost:8000", 403),
        ("http://127.0.0.1:8000", "localhost:8000", 403),
        ("http://localhost:99999", "localhost:8000", 403),
        ("http://localhost:8000", "localhost:8000", 200),
        ("https://localhost:8000", "localhost:8000", 200),
        ("http://[::1]:8000", "[::1]:8000", 200),
        ("http://scanner", "scanner:80", 200),
        ("https://scanner:443", "scanner", 200),
        ("https://images.example", "localhost:8000", 200),
    ],
)
def test_an_old_browser_s_origin_shows_pages_of_other_sites(origin, host, status, serve, asked, noisy):
    client = serve(asked, cors_origins="https://images.example")
    headers = {"origin": origin, "host": host}

    assert client.post("/change", headers=headers).status_code == status
    assert client.post("/denoise", content=noisy, headers=headers).status_code == status
    assert client.post("/change", headers=headers | {"sec-fetch-site": "none"}).status_code == status
    if status == 403:
        assert_problem(
            client.post("/change", headers=headers), 403, "refuses pages of other sites", "DENOISE_CORS_ORIGINS"
        )
        assert serve(asked, open=True).get("/asked", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (
            {"origin": "https://evil.example"},
            "other sites, here https://evil.example. Add the site to",
        ),
        ({"origin": ""}, "names no site: its Origin header is ''. A program should send neither"),
        ({"origin": "null"}, "names no site: its Origin header is 'null'"),
        ({"sec-fetch-site": "cross-site"}, "this request has no Origin header"),
    ],
)
def test_the_refusal_of_other_sites_names_the_origin(headers, words, serve, asked):
    response = serve(asked).post("/change", headers={"host": "localhost:8000", **headers})

    assert_problem(response, 403, words, "DENOISE_CORS_ORIGINS")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_address_needs_no_keys(host):
    refuse_unprotected(host, Settings())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "", "images.example", "localhost.example"])
def test_a_public_address_needs_keys_or_open(host, tmp_path):
    with pytest.raises(ValueError, match=r"no keys: create one with `denoise keys add .* or use --open"):
        refuse_unprotected(host, Settings())
    for given in ({"open": True}, {"keys": "anything"}, {"keys_file": tmp_path}):
        refuse_unprotected(host, Settings(**given))


def test_serve_without_keys_fails_in_one_line():
    ended = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "error: with --host 0.0.0.0 other machines can reach the service, but it has no keys"
    )
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("proxies", "client", "seen"),
    [
        (None, "127.0.0.1", "127.0.0.1"),
        ("192.0.2.0/24", "127.0.0.1", "127.0.0.1"),
        ("192.0.2.7, 2001:db8::/32", "192.0.2.7", "203.0.113.9"),
        ("192.0.2.7, 2001:db8::/32", "2001:db8::1", "203.0.113.9"),
    ],
)
def test_only_a_configured_proxy_is_trusted(proxies, client, seen, folder):
    settings = Settings(weights=folder, model="photo", device="cpu", proxies=proxies)
    app = create_app(settings)

    @app.get("/address")
    async def get_address(request: Request) -> str:
        return f"{request.url.scheme} {request.client.host}"

    config = Server(app, settings).config
    config.load()
    with TestClient(config.loaded_app, client=(client, 1)) as asking:
        headers = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
        address = asking.get("/address", headers=headers).json()

    assert address == ("https " if seen == "203.0.113.9" else "http ") + seen
