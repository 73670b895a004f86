"""The health routes."""

import threading
from concurrent.futures import ThreadPoolExecutor

from engine.inference import tiling
from engine.layers import kernels
from engine.models import checkpoint
from service.runtime import inference_queue
from tests.support.windows import SOON


def test_health_shows_model_device_and_version(client, folder):
    health = client.get("/health").json()

    assert health["ready"] is True
    assert (health["model"], health["device"], health["precision"]) == ("photo", "cpu", "float32")
    assert health["digests"] == {"photo": checkpoint.load(folder / "photo.safetensors").digest}
    assert (health["denoising"], health["waiting"]) == (0, 0)
    assert health["version"]
    assert health["kernels"] == kernels.name()


def test_health_counts_the_images_in_work(client, noisy, monkeypatch):
    in_network, go_on = threading.Event(), threading.Event()

    def held(pieces):
        in_network.set()
        assert go_on.wait(SOON)
        tiling.run_batch(pieces)

    monkeypatch.setattr(inference_queue, "run_batch", held)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, "/denoise", content=noisy)
        assert in_network.wait(SOON)
        health = client.get("/health").json()
        go_on.set()

        assert answer.result().status_code == 200
    assert (health["denoising"], health["waiting"]) == (1, 0)
