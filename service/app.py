"""Application factory: builds the FastAPI application with its routes, middleware and state."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import TypedDict

import torch
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from engine.imageio.sandbox.decoder import Decoder, require_linux
from engine.system.runtime import return_freed_memory
from service import version
from service.api import batch, denoise, estimate, health, jobs, models, page, preview
from service.auth.dependencies import ApiKeys, authenticate, describe_authentication
from service.auth.rate_limit import RateLimits, Sizes
from service.jobs.store import open_job_store
from service.jobs.work_folder import remove_left_folders
from service.jobs.worker import Worker, working
from service.middleware.etag import ETagFiles
from service.middleware.head_requests import HeadRequests
from service.middleware.request_limits import RequestLimits
from service.middleware.request_log import RequestLog
from service.middleware.security_headers import SecurityHeaders, allow_origins
from service.problems import add_error_handlers
from service.registry.registry import ModelRegistry
from service.registry.shared_weights import SharedWeights
from service.runtime.collectors import exposing
from service.runtime.parameters import refuse_unknown_parameters
from service.runtime.pipeline import Pipeline
from service.runtime.preview import Previewer
from service.runtime.scheduler import Scheduler
from service.runtime.shutdown import GracefulShutdown
from service.runtime.views import Views
from service.settings import Settings
from service.storage.storage import Storage, open_storage
from service.telemetry.metrics import Metrics

# The groups of routes in the OpenAPI description.
TAGS = [
    {"name": "images", "description": "Denoise, measure and decode images."},
    {"name": "jobs", "description": "Long work that is submitted, followed and fetched later."},
    {"name": "models", "description": "The models in service."},
    {"name": "health", "description": "The state of the service. These routes need no API key."},
]


class State(TypedDict):
    """The attributes of `request.state`."""

    pipeline: Pipeline
    previewer: Previewer
    views: Views
    scheduler: Scheduler
    settings: Settings
    metrics: Metrics
    shutdown: GracefulShutdown
    api_keys: ApiKeys
    registry: ModelRegistry
    worker: Worker | None


def create_app(settings: Settings) -> FastAPI:
    """Build the application. A server still has to run it.

    Sets torch's number of threads, and how memory is released, for the whole process.
    Raises ValueError or OSError if the keys, the weights, the spool folder or what replicas share cannot be used,
    or if this is not Linux. Checked here, because the server prints a traceback for an error in the lifespan.
    """
    _set_up_process(settings)
    shutdown, metrics = GracefulShutdown(), Metrics()
    with ExitStack() as stack:
        if storage := open_storage(settings):
            stack.callback(storage.close)
        api_keys = ApiKeys(settings, _shared_limits(settings, storage))
        # Early: its process loads the codecs while this one loads the weights. The lifespan ends it.
        decoder = stack.enter_context(Decoder(settings.decode_seconds, settings.decode_memory))
        registry = ModelRegistry(settings, SharedWeights(storage) if storage else None)
        # Last, because it locks the spool folder for this process until the lifespan ends.
        store = open_job_store(settings, storage)
        opened = stack.pop_all()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        with opened, Scheduler(settings) as scheduler, Views(settings.view_memory) as views:
            pipeline = Pipeline.build(lambda: registry.models, scheduler, decoder, settings, metrics)
            charge, slow = partial(api_keys.charger, accepted=True), pipeline.with_low_priority()
            work = working(store, slow, settings, metrics, shutdown, charge, registry) if store else nullcontext()
            with exposing(metrics.registry, scheduler, pipeline.cache, lambda: registry.models, shutdown):
                async with registry.watching(settings.weights_interval), work as worker:
                    # fmt: off
                    yield State(
                        pipeline=pipeline, previewer=Previewer(pipeline, views), views=views,
                        scheduler=scheduler, settings=settings, metrics=metrics,
                        shutdown=shutdown, api_keys=api_keys, registry=registry, worker=worker,
                    )
                    # fmt: on

    app = _empty_app(lifespan)
    # The server uses these to announce its shutdown, and to count the requests that it refuses itself.
    app.state.shutdown, app.state.metrics = shutdown, metrics
    add_error_handlers(app)
    for module in (denoise, batch, estimate, preview, jobs, models, health, page):
        app.include_router(module.router)
    _add_middleware(app, settings, shutdown, metrics)
    app.mount("/page", ETagFiles(directory=page.FOLDER), name="page")
    describe_authentication(app, api_keys)
    return app


def _empty_app(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[State]]) -> FastAPI:
    # FastAPI's own /docs loads its script from the Internet. This class serves the files itself.
    return FastAPIOffline(
        title="denoise",
        summary="Removes noise from images.",
        version=version(),
        lifespan=lifespan,
        # For all routes. Those without a key are listed in PUBLIC_PATHS.
        dependencies=[Depends(authenticate), Depends(refuse_unknown_parameters)],
        openapi_tags=TAGS,
        redoc_url=None,
        # A redirect would go to the host in the Host header, which the client can forge.
        redirect_slashes=False,
        static_url="/docs/files",
        favicon_url="page/icon.svg",
    )


def _set_up_process(settings: Settings) -> None:
    require_linux()
    return_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.adapt:
        remove_left_folders()


def _shared_limits(settings: Settings, storage: Storage | None) -> RateLimits | None:
    """The limits of keys over all replicas, if they share a storage."""
    if storage is None:
        return None
    # Here, because its packages are needed by replicas only.
    from service.auth.shared_limits import SharedRateLimits

    return SharedRateLimits(Sizes(settings.key_rate, settings.key_pixels), storage.database)


def _add_middleware(app: FastAPI, settings: Settings, shutdown: GracefulShutdown, metrics: Metrics) -> None:
    """The middleware that is added first is the innermost."""
    app.add_middleware(HeadRequests)
    app.add_middleware(RequestLimits, shutdown=shutdown, upload_seconds=settings.upload_seconds)
    app.add_middleware(SecurityHeaders)
    allow_origins(app, settings)
    # The outermost: it must see the answers of all others.
    app.add_middleware(RequestLog, metrics=metrics)
