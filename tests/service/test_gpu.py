"""The service on a GPU. Skipped without one."""

import pytest
import torch
from fastapi.testclient import TestClient

from service.app import create_app
from service.runtime import scheduler
from service.settings import Settings

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_the_service_denoises_on_a_gpu(folder, samples, file_of):
    settings = Settings(weights=folder, model="photo", device=GPU, precision="float32")
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        health = client.get("/health").json()
        answers = [
            client.post("/denoise", params={"model": model}, content=file_of(samples(70, 90)))
            for model in ("photo", "scans")
        ]
        after = client.get("/health").json()

    assert health["device"] == GPU
    assert [answer.status_code for answer in answers] == [200, 200]
    assert after["tried"] == ["photo", "scans"]


def test_a_full_gpu_is_lack_of_memory():
    with pytest.raises(MemoryError), scheduler._lacking_memory():
        torch.empty(2**50, dtype=torch.uint8, device=GPU)
