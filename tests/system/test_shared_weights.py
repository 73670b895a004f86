"""Two replicas as processes behind nginx, with PostgreSQL and S3: they serve the same weights."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import pytest

from tests.load.process import Service
from tests.load.wire import ask
from tests.support.nginx import MISSING, NGINX, proxied

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)

INTERVAL = 0.5  # seconds, as DENOISE_WEIGHTS_INTERVAL
SOON = 30  # seconds; only a test that fails waits so long


async def models(service):
    """(served, wanted, previous) of `photo`."""
    [photo] = [
        each for each in json.loads((await ask(service.port, "GET /models")).body) if each["name"] == "photo"
    ]
    return tuple(photo[key].get("photo") for key in ("digests", "wanted", "previous"))


async def until(service, expected):
    end = time.monotonic() + SOON
    while (found := await models(service)) != expected:
        assert time.monotonic() < end, f"{found} is not {expected}"
        await asyncio.sleep(0.05)


def test_replicas_follow_an_activation_and_a_rollback(tmp_path, save_tiny, postgres, s3, samples, file_of):
    given = {
        "database": postgres.new_database(), "blobs": s3.new_bucket(), "spool": "", "weights_interval": INTERVAL,
        "model": "photo", "device": "cpu", "precision": "float32", "threads": 1,
    }  # fmt: skip
    noisy = file_of(samples(40, 40))

    def replica(name, seed=0):
        folder = tmp_path / name
        folder.mkdir()
        save_tiny(folder / "weights" / "photo.safetensors", seed=seed)
        return Service(folder, weights=folder / "weights", **given)

    async def run():
        async with AsyncExitStack() as stack:
            a, b = (stack.enter_context(replica(name)) for name in ("a", "b"))
            await asyncio.gather(a.start(), b.start())
            nginx = stack.enter_context(proxied(tmp_path / "nginx", [a.port, b.port]))
            old = (await models(a))[0]
            await asyncio.gather(until(a, (old, old, None)), until(b, (old, old, None)))

            # A file that one replica has is activated on it, and reaches the other.
            save_tiny(tmp_path / "a" / "weights" / "photo.safetensors", seed=1)
            answer = await ask(a.port, "POST /models/photo/activate")
            assert answer.status == 200
            new = json.loads(answer.body)["digests"]["photo"]
            assert new != old
            await asyncio.gather(until(a, (new, new, old)), until(b, (new, new, old)))

            # A replica that starts later has old weights of its own, and serves the new ones.
            late = stack.enter_context(replica("late"))
            await late.start()
            assert await models(late) == (new, new, old)

            # Any replica can roll back for all.
            assert (await ask(nginx.port, "POST /models/photo/rollback")).status == 200
            await asyncio.gather(*(until(each, (old, old, new)) for each in (a, b, late)))
            images = [await ask(nginx.port, "POST /denoise", noisy) for _ in range(4)]
            assert {each.headers["x-denoise-digest"] for each in images} == {old}
            return [each.faults() for each in (a, b, late)]

    assert asyncio.run(run()) == [[], [], []]
