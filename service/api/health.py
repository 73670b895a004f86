"""Health and metrics: GET /health, /health/live, /health/ready and /metrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field

from engine.layers import kernels
from service.middleware.request_limits import stopping_error
from service.problems import describe_problems
from service.registry.snapshot import Digests, Fault, Loaded, Previous
from service.runtime.pipeline import Denoiser
from service.runtime.shutdown import GracefulShutdown
from service.telemetry.metrics import Metrics

router = APIRouter()


class Health(BaseModel):
    """What the service is, and what it is doing."""

    ready: bool = Field(
        description="The weights are loaded, before which nothing is answered, and it is not stopping."
    )
    model: str = Field(description="What a request gets that names no model.")
    digests: Digests
    previous: Previous
    loaded: Loaded
    faults: list[Fault] = Field(description="Weights files that are not what is served under their names.")
    device: str
    precision: str = Field(description="The type that products run in.")
    kernels: str = Field(description="The compiled kernels in use on the processor, or plain, which is none.")
    version: str
    denoising: int = Field(description="Images that are being decoded, denoised or encoded.")
    waiting: int = Field(description="Images that wait for their turn.")
    jobs: bool = Field(description="Whether images can be left here as jobs.")


@router.get("/health")
async def get_health(request: Request) -> Health:
    """Whether the service is ready, what it runs, and how busy it is."""
    denoiser: Denoiser = request.state.denoiser
    closing: GracefulShutdown = request.state.closing
    models, schedule = denoiser.models, denoiser.schedule
    return Health(
        ready=not closing.begun,
        model=models.default,
        **models.history(models.default),
        faults=list(models.faults.values()),
        device=models.device,
        precision=models.precision,
        kernels=kernels.name(),
        version=request.app.version,
        denoising=schedule.in_work,
        waiting=schedule.waiting,
        jobs=request.state.worker is not None,
    )


@router.get("/health/live")
async def get_live() -> dict[str, bool]:
    """Whether the process answers: if not, start it again."""
    return {"live": True}


@router.get("/health/ready", responses=describe_problems({503: "The service is stopping."}))
async def get_ready(request: Request) -> dict[str, bool]:
    """Whether to send images here."""
    closing: GracefulShutdown = request.state.closing
    if closing.begun:
        raise stopping_error()
    return {"ready": True}


@router.get("/metrics", include_in_schema=False)
async def get_metrics(request: Request) -> Response:
    """What is counted, in a format that Prometheus reads."""
    metrics: Metrics = request.state.denoiser.metrics
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(metrics.registry), media_type=media_type)
