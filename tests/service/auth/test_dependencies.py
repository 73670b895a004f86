"""Authentication: requests with keys."""

import asyncio
import hmac
import io
import json
import logging
import os
import re
import zipfile

import pytest
from fastapi import Response
from fastapi.routing import iter_route_contexts

from service.auth.api_keys import add_key, revoke_key
from service.auth.dependencies import PUBLIC_PATHS, ApiKeys
from service.settings import Settings
from tests.support.problems import assert_problem
from tests.support.served import answer, serving

GIVEN = "x" * 40
BEARER = {"authorization": f"Bearer {GIVEN}"}
# The files of public pages are mounted, so no dependency of a route checks them.
PUBLIC_FILES = {"/page", "/docs/files"}


def reachable_without_key(client):
    """The method and path of every route that answers without a key."""
    found = set()
    for route in iter_route_contexts(client.app.routes):
        for method in route.methods or ["MOUNT"]:
            path = re.sub(r"\{\w+(:\w+)?\}", "x", route.path)
            if method == "MOUNT" or client.request(method, path).status_code != 401:
                found.add((method, route.path))
    return found


def test_every_route_needs_a_key_unless_it_is_public(serve):
    answering = reachable_without_key(serve(keys=f"web:{GIVEN}"))

    paths = {path for _, path in answering}
    assert ("POST", "/denoise") not in answering
    assert {"/", "/health", "/docs", "/page"} <= paths <= PUBLIC_PATHS | PUBLIC_FILES
    assert {method for method, _ in answering} <= {"GET", "HEAD", "MOUNT"}


def test_a_new_route_needs_a_key_and_a_bare_one_is_detected(serve, asked):
    client = serve(asked, keys=f"web:{GIVEN}")
    client.app.add_route("/bare", lambda request: Response())

    assert client.get("/asked").status_code == 401
    assert {path for _, path in reachable_without_key(client)} - PUBLIC_PATHS - PUBLIC_FILES == {"/bare"}


def test_a_request_without_a_key_learns_how_to_send_one(serve, noisy):
    response = serve(keys=f"web:{GIVEN}").post("/denoise", content=noisy)

    assert_problem(response, 401, "has no API key", "`Authorization: Bearer KEY` or `X-API-Key: KEY`")
    assert response.headers["www-authenticate"] == "Bearer"


def test_the_key_is_checked_before_the_parameters(serve):
    client = serve(keys=f"web:{GIVEN}")

    assert client.post("/denoise", params={"quality": 1000, "model": "none"}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {GIVEN}x"},
        {"authorization": f"Bearer {GIVEN[1:]}"},
        {"authorization": f"Basic {GIVEN}"},
        {"authorization": GIVEN},
        {"authorization": "Bearer"},
        {"x-api-key": GIVEN.upper()},
        {"x-api-key": "ä".encode()},
        {"cookie": f"key={GIVEN}"},
    ],
)
def test_an_unknown_key_is_refused_and_not_repeated(headers, serve, asked, caplog):
    response = serve(asked, keys=f"web:{GIVEN}").get("/asked", headers=headers)

    assert_problem(response, 401, "`Authorization: Bearer KEY`")
    assert GIVEN[1:].lower() not in (response.text + caplog.text).lower()


def test_a_key_in_the_query_is_refused(serve, asked):
    assert serve(asked, keys=f"web:{GIVEN}").get("/asked", params={"key": GIVEN}).status_code == 401


@pytest.mark.parametrize("headers", [BEARER, {"authorization": f"bearer  {GIVEN}"}, {"x-api-key": GIVEN}])
def test_a_key_is_accepted_in_either_header(headers, serve, asked):
    client = serve(asked, keys=f"scanner:{'y' * 40},web:{GIVEN}")

    assert client.get("/asked", headers=headers).json() == "web"


def test_a_proxys_own_authorization_does_not_hide_the_key(serve, asked):
    headers = {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": GIVEN}

    assert serve(asked, keys=f"web:{GIVEN}").get("/asked", headers=headers).json() == "web"


def test_a_request_with_a_key_is_answered(serve, noisy):
    assert serve(keys=f"web:{GIVEN}").post("/denoise", content=noisy, headers=BEARER).status_code == 200


def test_a_key_is_compared_with_all_in_constant_time(serve, asked, monkeypatch):
    client = serve(asked, keys=f"web:{GIVEN},b:{'b' * 40},c:{'c' * 40}")
    compared, real = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))

    for secret in (GIVEN, "c" * 40, "d" * 40):
        compared.clear()
        client.get("/asked", headers={"x-api-key": secret})
        assert len({ours for ours, _ in compared}) == 3
        assert len({theirs for _, theirs in compared}) == 1


def test_keys_are_added_and_revoked_at_run_time(serve, asked, file):
    first = add_key(file, "first")
    client = serve(asked, keys_file=file, keys=f"web:{GIVEN}")

    second = add_key(file, "second")
    both = [client.get("/asked", headers={"x-api-key": secret}).json() for secret in (first, second)]
    revoke_key(file, "first")
    revoked = client.get("/asked", headers={"x-api-key": first})
    others = [client.get("/asked", headers={"x-api-key": secret}).json() for secret in (second, GIVEN)]

    assert both == ["first", "second"]
    assert_problem(revoked, 401, "unknown or revoked")
    assert others == ["second", "web"]


def test_after_the_last_key_is_revoked_nobody_gets_in(serve, asked, file):
    secret = add_key(file, "only")
    client = serve(asked, keys_file=file)

    revoke_key(file, "only")

    assert [client.get("/asked", headers=headers).status_code for headers in ({}, {"x-api-key": secret})] == [
        401,
        401,
    ]


def test_the_file_is_read_again_only_when_it_has_changed(file, monkeypatch):
    secret = add_key(file, "a")
    keys = ApiKeys(Settings(keys_file=file))
    monkeypatch.setattr("service.auth.dependencies.read_keys", lambda path: pytest.fail("it was read again"))

    assert asyncio.run(keys.admit({"x-api-key": secret})).name == "a"


def overwrite(file):
    """Overwrite the file in place with an invalid line of the same length and time."""
    before = file.stat()
    file.write_bytes(b"x" * before.st_size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("breaks", [overwrite, lambda file: file.unlink(), lambda file: file.chmod(0o666)])
def test_an_unreadable_key_file_is_answered_503_and_logged_once(breaks, serve, asked, file, caplog):
    secret = add_key(file, "a")
    client = serve(asked, keys_file=file)
    before = client.get("/asked", headers={"x-api-key": secret})
    kept = file.read_bytes()

    breaks(file)
    with caplog.at_level(logging.ERROR):
        broken = [client.get("/asked", headers={"x-api-key": secret}) for _ in range(3)]
    health = client.get("/health")
    file.unlink(missing_ok=True)
    file.write_bytes(kept)
    after = client.get("/asked", headers={"x-api-key": secret})

    assert (before.status_code, health.status_code, after.status_code) == (200, 200, 200)
    for response in broken:
        assert_problem(response, 503, "Its log has the reason")
        assert str(file) not in response.text
    [entry] = [record.msg for record in caplog.records if record.msg["event"] == "cannot read API keys"]
    assert str(file) in entry["fault"]


def test_only_an_admin_key_may_change_the_service(serve, asked, file):
    admins, others = add_key(file, "boss", admin=True), add_key(file, "web")
    client = serve(asked, keys_file=file)

    assert client.post("/change", headers={"x-api-key": admins}).json() == "boss"
    refused = client.post("/change", headers={"x-api-key": others})
    assert_problem(refused, 403, "The API key 'web' is not an admin key", "POST /change needs an admin key")
    assert client.post("/change").status_code == 401


def test_an_admins_request_is_counted_once(serve, asked, file):
    secret = add_key(file, "boss", admin=True, rate=2)
    client = serve(asked, keys_file=file)

    answers = [client.post("/change", headers={"x-api-key": secret}).status_code for _ in range(3)]

    assert answers == [200, 200, 429]


def test_the_requests_of_a_key_are_limited(serve, asked, file):
    secret = add_key(file, "web", rate=2)
    client = serve(asked, keys_file=file, key_rate=1)

    *taken, refused = [client.get("/asked", headers={"x-api-key": secret}) for _ in range(3)]

    assert [answer.status_code for answer in taken] == [200, 200]
    assert_problem(refused, 429, "The API key 'web' has used 2 of 2 requests a minute")
    assert 0 < int(refused.headers["retry-after"]) <= 30


def test_the_pixels_of_a_key_are_limited(serve, noisy):
    client = serve(keys=f"web:{GIVEN}", key_pixels=1000)

    answers = [client.post("/denoise", content=noisy, headers=BEARER) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert re.search(r"has used 1,[12]\d\d of 1,000 pixels an hour", answers[-1].json()["detail"])
    assert client.get("/health").status_code == 200


def test_images_of_a_batch_beyond_the_limit_are_refused(serve, noisy):
    client = serve(keys=f"web:{GIVEN}", key_pixels=1000)
    files = [("image", (f"{number}.png", noisy)) for number in range(3)]

    answer = client.post("/denoise/batch", files=files, headers=BEARER)

    with zipfile.ZipFile(io.BytesIO(answer.content)) as made:
        # Two images are in work at once. Either may be decoded first.
        first, *others = made.namelist()
        (refused,) = [name for name in others if name.endswith(".error.json")]
        assert first == "0.png"
        assert json.loads(made.read(refused))["status"] == 429


def test_public_routes_are_not_counted(serve):
    client = serve(key_rate=1)

    assert [client.get("/health").status_code for _ in range(5)] == [200] * 5


def test_openapi_says_which_routes_need_a_key(serve):
    with_keys = serve(keys=f"web:{GIVEN}").get("/openapi.json").json()
    without = serve().get("/openapi.json").json()

    denoise, health = with_keys["paths"]["/denoise"]["post"], with_keys["paths"]["/health"]["get"]
    assert denoise["security"] == [{name: []} for name in with_keys["components"]["securitySchemes"]]
    assert {"401", "429"} <= set(denoise["responses"])
    assert "security" not in health
    assert "401" not in health["responses"]
    assert "security" not in without["paths"]["/denoise"]["post"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"keys": "web:short"}, "keys: number 1 is not NAME:KEY"),
        ({"keys": f"web:{GIVEN}", "open": True}, "open is for a service without keys"),
    ],
)
def test_invalid_key_settings_stop_the_start(given, words, serve):
    with pytest.raises(ValueError, match=words):
        serve(**given)


def test_a_name_in_file_and_variable_stops_the_start(serve, file):
    add_key(file, "web")

    with pytest.raises(ValueError, match="DENOISE_KEYS also has keys named web"):
        serve(keys_file=file, keys=f"web:{GIVEN}")


def test_a_missing_key_file_stops_the_start(serve, file):
    with pytest.raises(OSError, match="No such file"):
        serve(keys_file=file)


def test_the_repr_of_settings_has_no_keys():
    assert GIVEN not in repr(Settings(keys=f"web:{GIVEN}"))


def test_a_running_service_applies_key_changes_and_logs_none(folder, file):
    first = add_key(file, "first")
    with serving(folder, "--keys-file", file, "--log-level", "debug", "--root-path", "/images") as server:

        def status(secret):
            with server.connect() as connection:
                head = f"GET /models HTTP/1.1\r\nauthorization: Bearer {secret}\r\nhost: here\r\n\r\n"
                connection.sendall(head.encode())
                return answer(connection)[0]

        second = add_key(file, "second")
        assert (status(first), status(second)) == (200, 200)
        revoke_key(file, "first")
        assert (status(first), status(second)) == (401, 200)
        server.stop()
        server.wait_for("stopped")

    asked = [(line["status"], line.get("key")) for line in server.log if line["event"] == "request"]
    assert asked == [(200, "first"), (200, "second"), (401, None), (200, "second")]
    assert first not in json.dumps(server.log)
    assert second not in json.dumps(server.log)
