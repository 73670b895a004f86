"""The application: what is loaded once, and the rooms a request can go to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TypedDict

import torch
from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from service.errors import answer_errors
from service.models import Models, load_models
from service.routes import PAGE, router
from service.settings import Settings

# More would not be faster, one picture already keeps every core busy; but a small one need not wait for a large.
DENOISED_AT_ONCE = 2


class State(TypedDict):
    """What every request finds in `request.state`."""

    settings: Settings
    models: Models
    denoising: CapacityLimiter


def create_app(settings: Settings) -> FastAPI:
    """The service, ready but for a server to listen.

    Sets torch's number of threads, for the whole process. Raises ValueError saying which weights do not load and
    why: here, and not in the lifespan, so that a start that fails ends in a line instead of a server's traceback.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    models = load_models(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        yield State(settings=settings, models=models, denoising=CapacityLimiter(DENOISED_AT_ONCE))

    # FastAPI's own /docs fetches its script from elsewhere, and would stay blank on a machine without a network.
    app = FastAPIOffline(
        title="denoise",
        summary="Takes the noise out of pictures.",
        version=_version(),
        lifespan=lifespan,
        redoc_url=None,
        static_url="/docs/files",
        favicon_url="page/icon.svg",
    )
    answer_errors(app)
    app.include_router(router)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    return app


def _version() -> str:
    try:
        return version("denoise")
    except PackageNotFoundError:
        return "not installed"
