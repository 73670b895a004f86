"""The application: what is loaded once, and the rooms a request can go to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TypedDict

import torch
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from engine.imageio.sandbox.decoder import Decoder, require_linux
from engine.system.runtime import give_back
from service import version
from service.api.batch import router as batches
from service.api.denoise import PAGE, router
from service.api.estimate import router as estimating
from service.api.jobs import router as jobs
from service.api.models import router as models
from service.auth.dependencies import Keys, allowed, describe_keys
from service.jobs.store import JobStore
from service.jobs.worker import Worker, working
from service.middleware.etag import ETagFiles
from service.middleware.request_limits import RequestLimits
from service.middleware.request_log import RequestLog
from service.middleware.security_headers import SecurityHeaders, allow_origins
from service.problems import answer_errors
from service.registry.registry import ModelRegistry
from service.runtime.collectors import exposing
from service.runtime.pipeline import Pipeline
from service.runtime.scheduler import Scheduler
from service.runtime.shutdown import GracefulShutdown
from service.settings import Settings
from service.telemetry.metrics import Metrics


class State(TypedDict):
    """What every request finds in `request.state`."""

    pipeline: Pipeline
    scheduler: Scheduler
    settings: Settings
    metrics: Metrics
    closing: GracefulShutdown
    keys: Keys
    shelf: ModelRegistry
    worker: Worker | None


def create_app(settings: Settings) -> FastAPI:
    """The service, ready but for a server to listen.

    Sets torch's number of threads, and how memory is kept, for the whole process. Raises ValueError or
    OSError saying which keys or weights do not load, what is wrong with the spool, or that this is not Linux:
    here, and not in the lifespan, so that a failed start ends in a line instead of a server's traceback.
    """
    require_linux()
    keys = Keys(settings)
    give_back()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    shelf = ModelRegistry(settings)
    closing, metrics = GracefulShutdown(), Metrics()
    # Last: it is the process's own from here on, until the lifespan ends.
    spool = JobStore(settings.spool, settings.spool_bytes, settings.job_hours * 3600) if settings.spool else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        decoder = Decoder(settings.decode_seconds, settings.decode_memory)
        with decoder, Scheduler(settings) as scheduler:
            pipeline = Pipeline.build(lambda: shelf.models, scheduler, decoder, settings, metrics)
            charging, slow = partial(keys.charging, accepted=True), pipeline.with_low_priority()
            at_work = working(spool, slow, settings, metrics, closing, charging) if spool else nullcontext()
            with exposing(metrics.registry, scheduler, lambda: shelf.models, closing):
                async with shelf.watched(settings.weights_interval), at_work as worker:
                    # fmt: off
                    yield State(
                        pipeline=pipeline, scheduler=scheduler, settings=settings, metrics=metrics,
                        shelf=shelf, closing=closing, keys=keys, worker=worker,
                    )
                    # fmt: on

    # FastAPI's own /docs fetches its script from elsewhere, and would stay blank on a machine without a network.
    app = FastAPIOffline(
        title="denoise",
        summary="Takes the noise out of images.",
        version=version(),
        lifespan=lifespan,
        # Before every route there is and will be: to need no key, it has to be named in keys/guard.py.
        dependencies=[Depends(allowed)],
        redoc_url=None,
        # It would be to where the Host header says, which whoever sends a request makes up.
        redirect_slashes=False,
        static_url="/docs/files",
        favicon_url="page/icon.svg",
    )
    # The server tells the application by these when it is told to stop, and what it refuses by itself.
    app.state.closing, app.state.metrics = closing, metrics
    app.add_middleware(RequestLimits, closing=closing, upload_seconds=settings.upload_seconds)
    answer_errors(app)
    for each in (router, models, estimating, batches, jobs):
        app.include_router(each)
    app.add_middleware(SecurityHeaders)
    allow_origins(app, settings)
    # The last that is added is around the others, and has to see what they answer.
    app.add_middleware(RequestLog, metrics=metrics)
    app.mount("/page", ETagFiles(directory=PAGE), name="page")
    describe_keys(app, keys)
    return app
