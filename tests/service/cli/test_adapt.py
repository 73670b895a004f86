"""`denoise adapt`: its report, its results and its exit codes."""

import hashlib
import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from service.cli.adapt import INTERRUPTED, REFUSED
from tests.support.bursts import write_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four scenes of two shots."""
    return write_pairs(tmp_path_factory.mktemp("shots"), 4)


def test_list_only_says_what_is_there(denoise, folder, tmp_path):
    code, out, _ = denoise("adapt", folder, "--list", "--out", tmp_path / "mine.safetensors")

    assert code == 0
    assert "4 pairs; 8 noisy shots" in out
    assert "too little" in out
    assert not list(tmp_path.iterdir())


def test_the_weights_are_written_if_they_are_better(denoise, folder, model, tmp_path):
    weights = tmp_path / "mine.safetensors"

    code, out, err = denoise("adapt", folder, "--out", weights, "--start", model, "--steps", 60)

    assert (code == 0) == weights.exists()
    assert (code == REFUSED) == (tmp_path / "mine.refused.safetensors").exists()
    assert "Improvement: " in out
    (report,) = tmp_path.glob("mine*.html")
    assert "Gain" in report.read_text()
    assert "4 pairs; 8 noisy shots; 4 of 4 scenes can be learnt from" in err
    assert "on held-out scenes" in err


def test_weights_that_are_no_better_end_with_3(denoise, folder, tmp_path):
    weights = tmp_path / "mine.safetensors"

    code, out, _ = denoise("adapt", folder, "--out", weights, "--start", "photo-small", "--steps", 1)

    assert code == REFUSED
    assert "Not good enough" in out
    assert not weights.exists()


def test_a_kind_that_does_not_exist_is_wrong_usage(denoise, folder):
    code, _, err = denoise("adapt", folder, "--list", "--as", "movie")

    assert code == 2
    assert "none of auto, pair, burst" in " ".join(err.split())


def test_weights_without_a_name_are_wrong_usage(denoise, folder):
    code, _, err = denoise("adapt", folder)

    assert code == 2
    assert "--out" in err


def test_a_folder_that_is_missing_is_an_error(denoise, tmp_path):
    code, _, err = denoise("adapt", tmp_path / "nowhere", "--list")

    assert code == 1
    assert "no such folder" in err


def test_list_can_be_json_and_a_report(denoise, folder, tmp_path):
    code, out, _ = denoise("adapt", folder, "--list", "--json", "--report", tmp_path / "shots.html")

    assert code == 0
    assert [scene["kind"] for scene in json.loads(out)["scenes"]] == ["pair"] * 4
    assert "Nothing was trained" in (tmp_path / "shots.html").read_text()


# Publishing


@pytest.fixture
def finished(monkeypatch, tmp_path, save_tiny):
    """finished(passed): lets an adaptation end at once. Returns what was asked of a service."""
    asked = []

    def end(passed):
        name = "mine" if passed else "mine.refused"
        result = SimpleNamespace(
            passed=passed, stopped=False, weights=save_tiny(tmp_path / f"{name}.safetensors")
        )
        monkeypatch.setattr("engine.adaptation.adapt", lambda *_, **__: result)
        monkeypatch.setattr("service.cli.adapt.lines_of", lambda result: [])
        monkeypatch.setattr("service.cli.adapt._show", lambda *_: None)
        monkeypatch.setattr("service.cli.publish._ask", answer)
        return asked

    def answer(method, path, url, key, content=b""):
        asked.append((method, path, key))
        if method == "PUT" and key == "gone":
            raise ValueError(f"{url} cannot be reached: it is gone.")
        return {"digests": {"mine": hashlib.sha256(content).hexdigest()}}

    return end


def adapted(denoise, folder, tmp_path, key="secret"):
    weights = tmp_path / "mine.safetensors"
    return denoise("adapt", folder, "--out", weights, "--publish", "http://here", "--key", key)


def test_better_weights_are_published(denoise, folder, tmp_path, finished):
    asked = finished(True)

    code, _, err = adapted(denoise, folder, tmp_path)

    assert code == 0
    assert "published as mine to http://here" in err
    assert asked == [("GET", "/models", "secret"), ("PUT", "/models/mine", "secret")]


def test_refused_weights_are_not_published(denoise, folder, tmp_path, finished):
    asked = finished(False)

    code, _, _ = adapted(denoise, folder, tmp_path)

    assert code == REFUSED
    assert asked == [("GET", "/models", "secret")]


def test_a_failure_to_publish_keeps_the_file(denoise, folder, tmp_path, finished):
    finished(True)

    code, _, err = adapted(denoise, folder, tmp_path, "gone")

    weights = tmp_path / "mine.safetensors"
    assert code == 1
    assert weights.exists()
    assert f"{weights} is written, but not published: http://here cannot be reached: it is gone" in err
    assert f"To publish it: denoise publish {weights} --url http://here" in err


def test_a_url_without_a_service_ends_before_the_training(denoise, folder, tmp_path):
    weights = tmp_path / "mine.safetensors"

    code, _, err = denoise("adapt", folder, "--out", weights, "--publish", "http://127.0.0.1:9")

    assert code == 1
    assert "cannot be reached" in err
    assert "looking at the shots" not in err


def test_ctrl_c_ends_the_training_and_judges_what_was_best(folder, model, tmp_path):
    weights = tmp_path / "mine.safetensors"
    words = ["adapt", folder, "--out", weights, "--start", model, "--minutes", 30]
    command = [sys.executable, "-m", "service.cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "step 0:" in line:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=120)

    assert process.returncode == INTERRUPTED, err
    assert "stopped by a signal" in err
    assert "Judged on" in out
    assert len(list(tmp_path.glob("mine*.html"))) == 1


def test_published_weights_replace_no_shipped_ones(denoise, folder, tmp_path):
    code, _, err = denoise("adapt", folder, "--out", tmp_path / "photo.safetensors", "--publish", "http://here")

    assert code == 1
    assert "photo is the name of shipped weights" in err
