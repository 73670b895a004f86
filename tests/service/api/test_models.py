"""The models routes: listing, new weights while the service runs, and images in work meanwhile."""

import errno
import gzip
import io
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Event, Semaphore

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from engine.imageio.read import decode
from engine.inference.denoise import denoise_image
from engine.models import checkpoint
from service.app import create_app
from service.auth.api_keys import add_key
from service.registry import served_model as module
from service.registry.registry import ModelRegistry
from service.runtime import stages
from service.settings import Settings
from tests.support.adapted import PHOTONS, metadata_of
from tests.support.problems import assert_problem
from tests.support.weights import INVALID

SOON = 20  # seconds; only a failing test waits so long


@pytest.fixture
def folder(tmp_path, save_tiny):
    save_tiny(tmp_path / "photo.safetensors", seed=0)
    return tmp_path


@pytest.fixture
def file(folder):
    return folder / "photo.safetensors"


@pytest.fixture
def settings(folder):
    return Settings(weights=folder, model="photo", device="cpu", precision="float32", weights_interval=0)


@pytest.fixture
def client(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def noisy(samples, file_of):
    return file_of(samples(21, 34))


def digest(file):
    return checkpoint.load(file).digest


def test_a_new_weights_file_is_served_without_a_restart(settings, folder, save_tiny, noisy, monkeypatch):
    refreshed, refresh = Semaphore(0), ModelRegistry.refresh

    def counted(registry):
        refresh(registry)
        refreshed.release()

    monkeypatch.setattr(ModelRegistry, "refresh", counted)
    with TestClient(create_app(settings.model_copy(update={"weights_interval": 0.001}))) as client:
        assert client.post("/denoise", params={"model": "scans"}, content=noisy).status_code == 404
        made = save_tiny(folder / "scans.safetensors", seed=1)
        while refreshed.acquire(blocking=False):
            pass
        # One scan may have begun before the file was there.
        assert all(refreshed.acquire(timeout=SOON) for _ in range(3))
        listed = [about["name"] for about in client.get("/models").json()]
        answer = client.post("/denoise", params={"model": "scans"}, content=noisy)

    assert listed == ["photo", "scans"]
    assert answer.headers["x-denoise-digest"] == digest(made)
    expected = denoise_image(checkpoint.load(made).net, decode(noisy).pixels).clamp(0, 1)
    assert (decode(answer.content).pixels - expected).abs().max() < 0.51 / 255


def test_a_failed_check_of_the_folder_is_logged_and_repeated(settings, monkeypatch, caplog):
    refreshed = Semaphore(0)

    def wrong(registry):
        refreshed.release()
        raise ArithmeticError("a bug")

    monkeypatch.setattr(ModelRegistry, "refresh", wrong)
    with TestClient(create_app(settings.model_copy(update={"weights_interval": 0.001}))):
        assert all(refreshed.acquire(timeout=SOON) for _ in range(3))

    assert "a bug" in caplog.text


def test_an_interval_of_0_disables_the_checks(settings, noisy, monkeypatch):
    scans = []
    monkeypatch.setattr(ModelRegistry, "refresh", scans.append)

    with TestClient(create_app(settings)) as client:
        client.post("/denoise", content=noisy)

    assert scans == []


def test_activate_loads_a_file_at_once(client, file, save_tiny, noisy):
    before = digest(file)
    save_tiny(file, seed=1, recipe="of today")

    answer = client.post("/models/photo/activate")

    assert answer.status_code == 200
    about = answer.json()
    assert (about["name"], about["default"], about["metadata"]["recipe"]) == ("photo", True, "of today")
    assert (about["digests"], about["previous"]) == ({"photo": digest(file)}, {"photo": before})
    assert datetime.fromisoformat(about["loaded"]["photo"]).tzinfo
    assert client.get("/models").json() == [about]
    assert client.post("/denoise", content=noisy).headers["x-denoise-digest"] == digest(file)


def test_rollback_returns_to_the_previous_weights(client, file, save_tiny, noisy):
    before = digest(file)
    save_tiny(file, seed=1)
    client.post("/models/photo/activate")

    answer = client.post("/models/photo/rollback")

    assert answer.status_code == 200
    assert answer.json()["digests"] == {"photo": before}
    assert answer.json()["previous"] == {"photo": digest(file)}
    assert client.post("/denoise", content=noisy).headers["x-denoise-digest"] == before


def test_activate_and_rollback_refuse_with_a_reason(client, file):
    assert_problem(client.post("/models/photo/rollback"), 409, "'photo' has had no other weights")
    assert_problem(client.post("/models/films/rollback"), 404, "'films'", "Available: photo")
    assert_problem(client.post("/models/films/activate"), 404, "'films.safetensors'", "photo")
    file.write_bytes(b"no tensors here")
    assert_problem(client.post("/models/photo/activate"), 422, "photo.safetensors: cannot load weights")


@pytest.mark.parametrize("name", ["..%2Fphoto", "%2Fetc%2Fpasswd", "photo.safetensors", "..", "%00"])
@pytest.mark.parametrize("what", ["activate", "rollback"])
def test_a_model_name_is_not_used_as_a_path(name, what, client):
    assert_problem(client.post(f"/models/{name}/{what}"), 404)


def test_health_lists_invalid_weights_files(client, file, noisy):
    before = digest(file)
    assert client.get("/health").json()["faults"] == []
    file.write_bytes(b"no tensors here")
    client.post("/models/photo/activate")

    health = client.get("/health").json()

    assert health["ready"] is True
    assert health["digests"] == {"photo": before}
    (fault,) = health["faults"]
    assert fault["file"] == "photo.safetensors"
    assert fault["reason"].startswith("cannot load weights")
    assert fault["since"] >= health["loaded"]["photo"]
    client.post("/models/photo/activate")
    assert "denoise_weights_faults 1.0" in client.get("/metrics").text
    assert client.get("/health").json()["faults"] == [fault], "since it was noticed, not since it was last tried"
    assert client.post("/denoise", content=noisy).headers["x-denoise-digest"] == before


@pytest.mark.parametrize("what", ["activate", "rollback"])
def test_only_an_admin_changes_weights(what, settings, file, save_tiny, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    mine, other = add_key(keys, "boss", admin=True), add_key(keys, "web")
    with TestClient(create_app(settings.model_copy(update={"keys_file": keys}))) as client:
        before = client.get("/health").json()["digests"]
        save_tiny(file, seed=1)
        assert_problem(client.post(f"/models/photo/{what}"), 401, "has no API key")
        refused = client.post(f"/models/photo/{what}", headers={"x-api-key": other})
        assert_problem(refused, 403, "'web' is not an admin key")
        assert client.get("/health").json()["digests"] == before
        taken = client.post(f"/models/photo/{what}", headers={"x-api-key": mine})

    assert taken.status_code == (200 if what == "activate" else 409)


# The list


def test_models_are_listed_with_their_metadata(settings, folder, save_tiny):
    save_tiny(folder / "scans.safetensors", seed=1, recipe="tiny")
    with TestClient(create_app(settings)) as client:
        listed = client.get("/models").json()

    assert [(about["name"], about["default"], about["kind"]) for about in listed] == [
        ("photo", True, "photo"),
        ("scans", False, "photo"),
    ]
    assert listed[1]["metadata"]["recipe"] == "tiny"


def test_models_say_what_they_are_for_and_how_large_they_are(tmp_path, save_tiny):
    recipes = {
        "photo": {"noise": "camera"},
        "photo-gaussian": {"noise": "gaussian"},
        "photo-grey": {"noise": "gaussian", "grey": 1.0},
        "pixels": {"noise": "random-pixel"},
    }
    for name, recipe in recipes.items():
        save_tiny(tmp_path / f"{name}.safetensors", recipe=json.dumps(recipe))
    save_tiny(tmp_path / "own.safetensors")
    with TestClient(create_app(Settings(weights=tmp_path, device="cpu", precision="float32"))) as client:
        listed = {about["name"]: about for about in client.get("/models").json()}

    assert {name: about["noise"] for name, about in listed.items()} == {
        "auto": None,
        "own": None,
        "photo": "camera",
        "photo-gaussian": "white",
        "photo-grey": "grey",
        "pixels": "renders",
    }
    assert [name for name, about in listed.items() if not about["for_photos"]] == ["pixels"]
    assert [name for name, about in listed.items() if about["use"] is None] == ["own"]
    tiny = checkpoint.read(tmp_path / "own.safetensors").parameter_count
    assert {about["parameters"] for about in listed.values()} == {tiny}


def test_auto_is_listed_with_the_weights_it_chooses_among(choosing):
    auto, *others = choosing.get("/models").json()

    assert (auto["name"], auto["default"], auto["kind"]) == ("auto", True, "choice")
    assert set(auto["digests"]) == {"photo", "photo-gaussian", "photo-grey"}
    assert [about["name"] for about in others] == ["photo", "photo-gaussian", "photo-grey", "scans"]
    assert not any(about["default"] for about in others)
    assert choosing.get("/health").json()["digests"] == auto["digests"]


# Images in work


def test_an_image_keeps_the_weights_it_began_with(client, file, save_tiny, file_of, monkeypatch):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("#204060", "#ffffff", "#804020")]
    pages = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    nets, begun, swapped, begin = [], Event(), Event(), stages.TiledDenoiser

    def held(net, *args, **how):
        nets.append(net)
        begun.set()
        assert swapped.wait(SOON)
        return begin(net, *args, **how)

    monkeypatch.setattr(stages, "TiledDenoiser", held)
    before = digest(file)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/denoise", content=pages)
        assert begun.wait(SOON)
        save_tiny(file, seed=1)
        assert client.post("/models/photo/activate").status_code == 200
        swapped.set()
        old, new = first.result(), client.post("/denoise", content=pages)

    assert [old.headers["x-denoise-digest"], new.headers["x-denoise-digest"]] == [before, digest(file)]
    assert [nets.index(net) for net in nets] == [0, 0, 0, 3, 3, 3]


def test_images_of_one_batch_get_the_same_weights(client, file, save_tiny, samples, file_of, monkeypatch):
    begun, swapped, begin = Event(), Event(), stages.TiledDenoiser

    def held(*args, **how):
        begun.set()
        assert swapped.wait(SOON)
        return begin(*args, **how)

    monkeypatch.setattr(stages, "TiledDenoiser", held)
    before = digest(file)
    # More images than are in work at once.
    images = [("image", (f"{n}.png", file_of(samples(8, 8, seed=n)))) for n in range(5)]
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(client.post, "/denoise/batch", files=images)
        assert begun.wait(SOON)
        save_tiny(file, seed=1)
        assert client.post("/models/photo/activate").status_code == 200
        swapped.set()
        with zipfile.ZipFile(io.BytesIO(batch.result().content)) as made:
            comments = [info.comment.decode() for info in made.infolist()]

    assert len(comments) == 5
    assert all(before in comment for comment in comments)


def test_requests_are_answered_while_weights_are_checked(client, monkeypatch, file, save_tiny):
    save_tiny(file, seed=1)
    begun, answered = Event(), Event()

    def check(net):
        begun.set()
        assert answered.wait(SOON)

    monkeypatch.setattr(module, "check_network", check)
    with ThreadPoolExecutor(1) as pool:
        activated = pool.submit(client.post, "/models/photo/activate")
        assert begun.wait(SOON)
        health = client.get("/health")
        answered.set()

    assert health.status_code == 200
    assert activated.result().status_code == 200


# Caching


def test_an_unchanged_list_of_models_is_answered_304(client, file, save_tiny):
    held = {"If-None-Match": client.get("/models").headers["etag"]}
    assert client.get("/models", headers=held).status_code == 304

    save_tiny(file, seed=1)
    client.post("/models/photo/activate")

    changed = client.get("/models", headers=held)
    assert changed.status_code == 200
    assert changed.json()[0]["digests"] == {"photo": digest(file)}


# Weights that are sent


def test_weights_that_are_sent_are_checked_and_served(client, folder, save_tiny, tmp_path_factory, noisy):
    made = save_tiny(tmp_path_factory.mktemp("made") / "any.safetensors", seed=5)

    answer = client.put("/models/mine", content=made.read_bytes())

    assert answer.status_code == 200
    assert answer.json()["digests"] == {"mine": digest(made)}
    assert (folder / "mine.safetensors").read_bytes() == made.read_bytes()
    used = client.post("/denoise", params={"model": "mine"}, content=noisy)
    assert used.headers["x-denoise-digest"] == digest(made)
    assert sorted(each.name for each in folder.iterdir()) == ["mine.safetensors", "photo.safetensors"]


def test_sent_weights_replace_others_and_can_be_rolled_back(client, file, save_tiny, tmp_path_factory):
    before = digest(file)
    made = save_tiny(tmp_path_factory.mktemp("made") / "any.safetensors", seed=5)

    client.put("/models/photo", content=gzip.compress(made.read_bytes()), headers={"content-encoding": "gzip"})

    assert client.get("/health").json()["digests"] == {"photo": digest(made)}
    assert client.post("/models/photo/rollback").json()["digests"] == {"photo": before}


@pytest.mark.parametrize(("write", "reason"), INVALID)
def test_unusable_weights_that_are_sent_change_nothing(write, reason, client, file, save_tiny, tmp_path_factory):
    before, bad = file.read_bytes(), tmp_path_factory.mktemp("bad") / "bad.safetensors"
    write(bad, save_tiny)

    assert_problem(client.put("/models/photo", content=bad.read_bytes()), 422, reason)

    assert file.read_bytes() == before
    assert client.get("/health").json()["faults"] == []
    assert [each.name for each in file.parent.iterdir()] == ["photo.safetensors"]


@pytest.mark.parametrize("name", ["auto", "auto-large", ".hidden", "a%0Ab", "a%5Cb", "a%0A", "x" * 51])
def test_sent_weights_cannot_have_any_name(name, client, file):
    assert_problem(client.put(f"/models/{name}", content=file.read_bytes()), 422, "name")
    assert [each.name for each in file.parent.iterdir()] == ["photo.safetensors"]


def test_a_weights_file_over_the_limit_is_refused(settings, file):
    small = settings.model_copy(update={"max_batch_bytes": 100})
    with TestClient(create_app(small)) as client:
        assert_problem(client.put("/models/mine", content=file.read_bytes()), 413)


def test_a_folder_that_cannot_be_written_to_says_so(client, file, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("service.registry.weights_folder.TemporaryDirectory", full)

    answer = client.put("/models/mine", content=file.read_bytes())

    assert_problem(answer, 507, "cannot write to its weights folder: Read-only file system", "activate")


def test_only_an_admin_sends_weights(settings, file, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    admin, other = add_key(keys, "boss", admin=True), add_key(keys, "web")
    with TestClient(create_app(settings.model_copy(update={"keys_file": keys}))) as client:
        data = file.read_bytes()
        assert_problem(client.put("/models/mine", content=data), 401, "has no API key")
        assert_problem(client.put("/models/mine", content=data, headers={"x-api-key": other}), 403, "'web'")
        assert client.put("/models/mine", content=data, headers={"x-api-key": admin}).status_code == 200


# Adapted weights


def test_models_show_the_noise_that_weights_were_adapted_to(client, folder, save_tiny):
    save_tiny(folder / "mine.safetensors", **metadata_of(PHOTONS))
    client.post("/models/mine/activate")

    mine, photo = client.get("/models").json()

    assert mine["adapted_to"] == mine["use"]
    assert mine["adapted_to"].startswith("Adapted to grey 16-bit images")
    assert mine["noise"] == "own"
    assert photo["adapted_to"] is None


def test_openapi_has_the_answers_of_the_models_routes(client):
    paths = client.get("/openapi.json").json()["paths"]

    assert "array" in str(paths["/models"]["get"]["responses"]["200"])
    assert "304" in paths["/models"]["get"]["responses"]
    assert {"403", "404", "422"} < set(paths["/models/{name}/activate"]["post"]["responses"])
    assert {"403", "413", "422", "507"} < set(paths["/models/{name}"]["put"]["responses"])
    assert {"403", "404", "409"} < set(paths["/models/{name}/rollback"]["post"]["responses"])
