"""A file's way through the service, without HTTP."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PILImage

from engine.imageio.sandbox.decoder import Decoder
from engine.imageio.sandbox.shared_file import in_memory
from service.params import DenoiseParams
from service.registry.registry import ModelRegistry
from service.runtime.pipeline import Pipeline
from service.runtime.scheduler import Scheduler
from service.runtime.ticket import MemoryShare
from service.runtime.upload import ImageSource
from service.settings import Settings
from service.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[3]


async def nobody_leaves():
    await asyncio.Event().wait()


def test_progress_and_charge_count_the_pixels_of_all_pages(tmp_path, save_tiny, file_of):
    save_tiny(tmp_path / "photo.safetensors")
    settings = Settings(weights=tmp_path, model="photo", device="cpu", precision="float32")
    frames = [PILImage.new("RGB", (9, 7), colour) for colour in ("red", "white", "blue", "black")]
    body = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    spent, shares, registry = [], [], ModelRegistry(settings)

    async def charge(pixels):
        spent.append(pixels)

    with Decoder() as decoder, Scheduler(settings) as scheduler, in_memory(body) as file:
        pipeline = Pipeline.build(lambda: registry.models, scheduler, decoder, settings, Metrics())
        asyncio.run(
            pipeline.denoise(
                ImageSource.of(file), DenoiseParams(), MemoryShare(), nobody_leaves, charge, shares.append
            )
        )

    assert spent == [4 * 9 * 7]
    assert shares == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the process's memory")
def test_many_clients_take_no_more_memory_than_the_settings_say(tmp_path, save_tiny):
    """24 of 8 MB come at once, of which each takes some 35 MB in work."""
    save_tiny(tmp_path / "photo.safetensors")
    program = """
import asyncio, resource, sys, torch
from engine.imageio.formats import FORMATS
from engine.imageio.image import ImageSequence, Image
from engine.imageio.write import encode
from service.app import create_app
from service.settings import Settings
torch.set_num_threads(1)
MB, how = 2**20, dict(weights=sys.argv[1], model="photo", device="cpu", precision="float32", max_waiting=10)
memory = dict(image_memory=60 * MB, body_memory=40 * MB, max_bytes=10 * MB, memory_budget=8 * MB)
memory["cache_bytes"] = 16 * MB
settings = Settings(**memory, **how)
noise = torch.randint(65536, (1100, 1000, 4)).to(torch.uint16)
noisy = Image(noise[..., :3].contiguous(), noise[..., 3].contiguous())
parts = encode(ImageSequence(FORMATS["png"], (noisy,)), FORMATS["png"]).data
parts = [parts[start : start + 65536] for start in range(0, len(parts), 65536)]

async def post(app, state):
    left, status, size = iter(parts), [], 0

    async def receive():
        await asyncio.sleep(0)
        part = next(left, None)
        if part is None:
            await asyncio.Event().wait()
        # As a server's: not a window of something that is there anyway.
        return {"type": "http.request", "body": bytes(bytearray(part)), "more_body": part is not parts[-1]}

    async def send(message):
        nonlocal size
        status.append(message.get("status"))
        size += len(message.get("body", b""))

    headers = [(b"content-length", str(sum(map(len, parts))).encode())]
    scope = {"type": "http", "method": "POST", "path": "/denoise", "query_string": b"", "headers": headers}
    await app({**scope, "state": dict(state)}, receive, send)
    return status[0], size > 10**6

async def main():
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:
        await post(app, state)
        open("/proc/self/clear_refs", "w").write("5")
        before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / MB
        answers = await asyncio.gather(*(post(app, state) for _ in range(24)))
        after = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
        await asyncio.sleep(0)
        scheduler = state["scheduler"]
        print(after - before, scheduler.memory, scheduler.body_bytes, *(status for status, _ in answers))

asyncio.run(main())
"""
    output = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )

    grown, held, bodies, *statuses = output.stdout.split()
    assert set(statuses) == {"200", "503"}, output.stderr
    assert statuses.count("200") >= 2
    assert float(grown) < 60 + 40 + 8 + 16
    assert (held, bodies) == ("0", "0")
