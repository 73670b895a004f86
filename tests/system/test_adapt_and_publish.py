"""From noisy shots to weights in a running service, which `auto` then chooses for images of that noise."""

import io

import pytest
import tifffile

from engine.models import checkpoint
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from service import cli
from service.auth.api_keys import add_key
from service.client import Client
from service.settings import Settings
from tests.support.adapted import shot_of
from tests.support.browser import served
from tests.support.bursts import photons, scene, shots, white, write

KEY = "k" * 40
CONFIG = UNetConfig((16, 16), (1, 1, 1))
SIDE = 96
NOISE = photons(200)


@pytest.fixture(scope="module")
def address(tmp_path_factory, save_tiny):
    """Of a service with keys, in whose weights folder only what `auto` needs lies."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("photo", "photo-gaussian", "photo-grey")):
        save_tiny(folder / f"{name}.safetensors", seed=seed)
    settings = Settings(weights=folder, device="cpu", precision="float32", keys=f"web:{KEY}")
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    admin = add_key(keys, "boss", admin=True)
    with served(settings.model_copy(update={"keys_file": keys})) as address:
        yield address, admin, folder


def tiff(noise, number):
    file = io.BytesIO()
    tifffile.imwrite(file, shot_of(noise, number)[..., 0].numpy())
    return file.getvalue()


def test_auto_takes_what_was_adapted_and_published(address, tmp_path, capsys, monkeypatch):
    url, admin, folder = address
    start = tmp_path / "start.safetensors"
    checkpoint.save(start, build_network(CONFIG), CONFIG, {})
    monkeypatch.setattr("engine.adaptation.start.CANDIDATES", {1: (str(start),)})
    for number in range(10):
        write(tmp_path / "shots", f"scene-{number}", shots(scene(number, SIDE), NOISE, 2, number))
    with Client(url, KEY) as client:
        before = [client.denoise(tiff(noise, 20)).headers["x-denoise-model"] for noise in (NOISE, white(25))]

        with pytest.raises(SystemExit) as stopped:
            cli.main([
                *("adapt", str(tmp_path / "shots"), "--out", str(tmp_path / "mine.safetensors")),
                *("--start", str(start), "--steps", "120", "--publish", url, "--key", admin),
            ])  # fmt: skip
        printed = capsys.readouterr()
        after = [client.denoise(tiff(noise, 20)).headers["x-denoise-model"] for noise in (NOISE, white(25))]
        found = client.estimate(tiff(NOISE, 20))

    assert not stopped.value.code, printed
    assert f"published as mine to {url}" in printed.err
    assert (folder / "mine.safetensors").read_bytes() == (tmp_path / "mine.safetensors").read_bytes()
    assert "mine" not in before
    assert after == ["mine", before[1]]
    assert found["model"] == "mine"
    assert found["reason"].startswith("its noise is that of mine: gain 2")
