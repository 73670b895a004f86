"""Health and metrics: GET /health, /health/live, /health/ready and /metrics."""

import asyncio
import math
import sqlite3
from contextlib import suppress

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field

from engine.layers import kernels
from service.jobs.worker import Worker
from service.middleware.request_limits import stopping_error
from service.problems import describe_problems
from service.registry.registry import ModelRegistry
from service.registry.snapshot import Digests, Fault, Loaded, Previous, Wanted
from service.runtime.scheduler import Scheduler
from service.runtime.shutdown import GracefulShutdown
from service.storage.away import StorageAway
from service.telemetry.metrics import Metrics

# How long to wait for the number of waiting jobs, in seconds.
COUNT_SECONDS = 2

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The state of the service."""

    ready: bool = Field(description="Whether to send images: the service is not stopping.")
    model: str = Field(description="The model for requests that name none.")
    digests: Digests
    wanted: Wanted
    previous: Previous
    loaded: Loaded
    tried: list[str] = Field(
        description="Weights whose network has denoised a check image. The others do so at their first use."
    )
    faults: list[Fault] = Field(description="Weights files that cannot be served.")
    device: str
    precision: str = Field(description="The type that networks compute in.")
    kernels: str = Field(description="The compiled kernels in use; plain means none.")
    version: str
    denoising: int = Field(description="Images that are being decoded, denoised or encoded.")
    waiting: int = Field(description="Images that wait in the queue.")
    jobs: bool = Field(description="Whether the service runs jobs.")


@router.get("/health", operation_id="get_health", summary="State of the service")
async def get_health(request: Request) -> Health:
    """The state of the service: models, device, version and queue."""
    registry: ModelRegistry = request.state.registry
    scheduler: Scheduler = request.state.scheduler
    shutdown: GracefulShutdown = request.state.shutdown
    models = registry.models
    return Health(
        ready=shutdown.ready,
        model=models.default,
        **models.history(models.default),
        tried=models.tried,
        faults=list(models.faults.values()),
        device=models.device,
        precision=models.precision,
        kernels=kernels.name(),
        version=request.app.version,
        denoising=scheduler.in_work,
        waiting=scheduler.waiting,
        jobs=request.state.worker is not None,
    )


@router.get("/health/live", operation_id="get_liveness", summary="Whether the process answers")
async def get_live() -> dict[str, bool]:
    """Whether the process answers. If it does not, restart it."""
    return {"live": True}


@router.get(
    "/health/ready",
    operation_id="get_readiness",
    summary="Whether to send images here",
    responses=describe_problems({503: "The service is stopping."}),
)
async def get_ready(request: Request) -> dict[str, bool]:
    """Whether to send images here."""
    shutdown: GracefulShutdown = request.state.shutdown
    if not shutdown.ready:
        raise stopping_error()
    return {"ready": True}


async def _jobs_waiting(worker: Worker) -> float:
    """NaN if the store of jobs does not say it in time. The other metrics do not wait for it."""
    with suppress(StorageAway, sqlite3.OperationalError, TimeoutError):
        async with asyncio.timeout(COUNT_SECONDS):
            return await worker.waiting()
    return math.nan


@router.get("/metrics", include_in_schema=False)
async def get_metrics(request: Request) -> Response:
    """Metrics in the format that Prometheus reads."""
    metrics: Metrics = request.state.metrics
    worker: Worker | None = request.state.worker
    if worker:
        metrics.jobs_waiting.set(await _jobs_waiting(worker))
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(metrics.registry), media_type=media_type)
