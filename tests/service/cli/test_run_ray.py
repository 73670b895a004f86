"""`denoise run --engine ray`, on a cluster of two nodes."""

import re
import secrets
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.bucket_server import bucket_server
from tests.support.ray_cluster import kill_worker, ray_cluster, waited_for, workers_at_work

# How long a command may take, in seconds. It takes some ten.
PATIENCE = 300


@pytest.fixture(scope="module")
def buckets():
    with bucket_server() as made:
        yield made


@pytest.fixture(scope="module")
def started(buckets):
    # After the buckets, whose credentials its nodes take from the environment.
    with ray_cluster() as made:
        yield made


@pytest.fixture
def cluster(started):
    started.restore()
    return started


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of 16 noisy images, each of which takes a core a quarter of a second."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for number in range(16):
        noisy = rng.normal(128, 20, (360, 480, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:02}.png", compress_level=0)
    return folder


def begin(*args):
    """Starts the command."""
    command = [sys.executable, "-m", "service.cli", "run", *map(str, args)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def end(process):
    """The command's exit code, and what it told."""
    told = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, told


def outputs(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("[!.]*")}


def options(cluster, *more):
    return ("--engine", "ray", "--address", cluster.address, "--workers", 2, "--model", "photo-small", *more)


def test_a_node_that_dies_in_the_middle_loses_nothing(cluster, scans, tmp_path):
    process = begin(scans, "-o", tmp_path / "o", *options(cluster))
    waited_for(lambda: len(outputs(tmp_path / "o")) > 2 and workers_at_work(cluster.second))
    cluster.kill_second()
    at_the_kill = outputs(tmp_path / "o")

    code, told = end(process)

    assert len(at_the_kill) < 16, "in the middle"
    assert code == 0, told
    assert set(outputs(tmp_path / "o")) == set(outputs(scans))
    assert "a node is gone; others do its work\n" in told
    assert re.search(r"16 images denoised in .*, [\d.]+ images and [\d.]+ megapixels a second", told)
    assert not list((tmp_path / "o" / ".denoise").glob("shared-*"))
    # What is done is done, for both engines.
    code, told = end(begin(scans, "-o", tmp_path / "o", "--resume", "--model", "photo-small"))
    assert (code, told) == (0, "skipping 16 of 16 images, which are done\n")


def test_an_interrupted_run_continues_where_it_was(cluster, scans, tmp_path):
    process = begin(scans, "-o", tmp_path / "o", *options(cluster))
    waited_for(lambda: len(outputs(tmp_path / "o")) > 2)
    process.send_signal(signal.SIGINT)
    stopped, told = end(process)
    made = outputs(tmp_path / "o")

    code, again = end(begin(scans, "-o", tmp_path / "o", *options(cluster, "--resume")))

    assert stopped == 130
    assert f"stopped: {16 - len(made)} of 16 images are left. Use --resume to continue." in told
    assert code == 0
    assert f"skipping {len(made)} of 16 images, which are done\n" in again
    assert made.items() < outputs(tmp_path / "o").items(), "what was done stayed as it was"


def test_an_image_that_ends_its_worker_twice_is_given_up(cluster, scans, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.effect_noise((3000, 3000), 40).save(folder / "large.png", compress_level=0)
    command = (folder, "-o", tmp_path / "o", *options(cluster, "--workers", 1, "--resume"))

    process = begin(*command)
    for _ in range(2):
        kill_worker(cluster)
    code, told = end(process)
    again, told_again = end(begin(*command))

    assert (code, again) == (1, 1)
    assert "large.png: a worker ended while it denoised this image; it is tried again last" in told
    assert "large.png: given up until it changes: two attempts ended with the process" in told
    assert "large.png: given up until it changes" in told_again
    assert outputs(tmp_path / "o") == {}


def test_buckets_are_denoised_on_a_cluster(cluster, buckets, scans):
    bucket = buckets.create(f"test-{secrets.token_hex(4)}")
    for number in range(6):
        buckets.put(bucket, f"in/{number}.png", (scans / f"{number:02}.png").read_bytes())
    buckets.put(bucket, "in/broken.png", b"no image")
    command = (f"s3://{bucket}/in", "-o", f"s3://{bucket}/out", *options(cluster))

    code, told = end(begin(*command))
    buckets.put(bucket, "in/1.png", (scans / "08.png").read_bytes())
    buckets.remove(bucket, "out/2.png")
    buckets.put(bucket, "in/broken.png", (scans / "09.png").read_bytes())
    again, told_again = end(begin(*command, "--resume"))

    assert (code, again) == (1, 0)
    assert f"s3://{bucket}/in/broken.png: This is not an image" in told
    assert "error: 1 of 7 images could not be denoised" in told
    assert told_again.startswith("starting 2 workers, each on 1 CPU\nskipping 4 of 7 images, which are done\n")
    assert [key for key in buckets.keys(bucket) if key.startswith("out/")] == [
        *(f"out/{number}.png" for number in range(6)),
        "out/broken.png",
    ]


def test_a_cluster_without_room_for_the_workers_says_so(cluster, scans, tmp_path):
    code, told = end(begin(scans, "-o", tmp_path / "o", *options(cluster, "--workers", 3)))

    assert code == 1
    assert told == "error: the cluster has 2 CPUs, too few for 3 workers; give fewer --workers\n"
    assert not (tmp_path / "o").exists()


def test_a_cluster_that_is_not_there_is_an_error(scans, tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    code, told = end(begin(scans, "-o", tmp_path / "o", "--engine", "ray", "--address", "127.0.0.1:1"))

    assert code == 1
    assert told == "error: no Ray cluster answers at 127.0.0.1:1: Connection refused\n"
