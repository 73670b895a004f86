"""`denoise run` from and to buckets, in this process; and the packages that it needs for them."""

import secrets
import subprocess
import sys

import pytest

from tests.support.bucket_server import bucket_server


@pytest.fixture(scope="module")
def buckets():
    with bucket_server() as made:
        yield made


@pytest.fixture
def bucket(buckets, photos):
    """A bucket with three images and two other files."""
    name = buckets.create(f"test-{secrets.token_hex(4)}")
    for photo in photos.iterdir():
        buckets.put(name, f"in/{photo.name}", photo.read_bytes())
    buckets.put(name, "in/broken.png", b"no image")
    buckets.put(name, "in/notes.txt", b"text")
    return name


def outputs(buckets, bucket):
    return [key for key in buckets.keys(bucket) if key.startswith("out/")]


def test_a_bucket_is_denoised_into_a_bucket(denoise, model, buckets, bucket, photos, tmp_path, pixels):
    command = ("run", f"s3://{bucket}/in", "-o", f"s3://{bucket}/out/", "--model", model)

    code, _, told = denoise(*command)
    buckets.put(bucket, "in/1.png", (photos / "2.png").read_bytes())
    buckets.remove(bucket, "out/2.png")
    buckets.put(bucket, "in/broken.png", (photos / "0.png").read_bytes())
    again, _, told_again = denoise(*command, "--resume")

    assert (code, again) == (1, 0)
    assert told.startswith(f"s3://{bucket}/in: left out 1 file that is not an image; -v names it\n")
    assert f"s3://{bucket}/in/broken.png: This is not an image" in told
    assert "skipping 1 of 4 images, which are done\n" in told_again
    assert outputs(buckets, bucket) == ["out/0.png", "out/1.png", "out/2.png", "out/broken.png"]
    (tmp_path / "1.png").write_bytes(buckets.get(bucket, "out/1.png"))
    assert (pixels(tmp_path / "1.png") == pixels(photos / "2.png")).all()


def test_an_output_of_something_else_stays(denoise, model, buckets, bucket, photos):
    command = ("run", f"s3://{bucket}/in/0.png", "-o", f"s3://{bucket}/out", "--model", model)
    denoise(*command)
    buckets.put(bucket, "out/0.png", b"mine")
    buckets.put(bucket, "in/0.png", (photos / "1.png").read_bytes())

    plain, _, _ = denoise(*command)
    resumed, _, told = denoise(*command, "--resume")
    kept = buckets.get(bucket, "out/0.png")
    forced, _, _ = denoise(*command, "--force")

    assert (plain, resumed, kept, forced) == (1, 1, b"mine", 0)
    assert "were made or changed by something else" in told
    assert buckets.get(bucket, "out/0.png") != b"mine"


def test_buckets_and_folders_mix(denoise, model, buckets, bucket, photos, tmp_path):
    there, _, _ = denoise("run", photos, "-o", f"s3://{bucket}/out", "--model", model)
    back, _, _ = denoise("run", f"s3://{bucket}/out", "-o", tmp_path / "o", "--model", model)
    beside, _, _ = denoise("run", f"s3://{bucket}/in/0.png", "--model", model)

    assert (there, back, beside) == (0, 0, 0)
    assert outputs(buckets, bucket) == ["out/0.png", "out/1.png", "out/2.png"]
    assert sorted(file.name for file in (tmp_path / "o").glob("[!.]*")) == ["0.png", "1.png", "2.png"]
    assert "in/0.denoised.png" in buckets.keys(bucket)


@pytest.mark.parametrize(("source", "target"), [("none-such", "{}"), ("{}", "none-such")])
def test_a_bucket_that_does_not_exist_is_wrong_usage(denoise, model, bucket, source, target):
    urls = (f"s3://{source.format(bucket)}/in", "-o", f"s3://{target.format(bucket)}/out")

    code, _, told = denoise("run", *urls, "--model", model)

    assert code == 2
    assert "s3://none-such: there is no such bucket" in " ".join(told.replace("│", " ").split())


def test_a_folder_without_images_is_an_error(denoise, model, bucket):
    code, _, told = denoise("run", f"s3://{bucket}/none", "-o", f"s3://{bucket}/out", "--model", model)

    assert code == 1
    assert told.startswith(f"error: s3://{bucket}/none: no images in this folder. Supported formats:")


def test_a_bucket_is_not_watched(denoise, bucket, tmp_path):
    code, _, told = denoise("run", "--watch", f"s3://{bucket}/in", "-o", tmp_path / "o")

    assert code == 2
    assert "watches folders, not buckets" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workers", "2"], "is for --engine ray"),
        (["--gpus", "1"], "is for --engine ray"),
        (["--engine", "ray", "--watch"], "--watch runs in this process only"),
    ],
)
def test_options_of_the_other_engine_are_refused(denoise, photos, tmp_path, options, told):
    code, _, stderr = denoise("run", photos, "-o", tmp_path / "o", *options)

    assert code == 2
    assert told in stderr


def test_ray_needs_a_folder_for_the_results(denoise, photos):
    code, _, told = denoise("run", photos / "0.png", "--engine", "ray")

    assert code == 2
    assert "give a folder after -o" in told


def test_a_missing_ray_is_told_with_its_remedy(denoise, model, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    code, _, told = denoise("run", photos, "-o", tmp_path / "o", "--model", model, "--engine", "ray")

    assert code == 2
    assert "pip install 'denoise[ray]'" in " ".join(told.replace("│", " ").split())
    assert not (tmp_path / "o").exists()


def test_without_buckets_and_ray_their_packages_are_not_loaded(model, photos, tmp_path):
    code = f"""
import sys
from service import cli
try:
    cli.main(["run", {str(photos)!r}, "-o", {str(tmp_path / "o")!r}, "--model", {str(model)!r}])
finally:
    assert not {{"ray", "obstore"}} & set(sys.modules)
"""

    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert (tmp_path / "o" / "0.png").exists()
