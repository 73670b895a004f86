"""Long work: images are left here, and the result is fetched when it is done."""

import json
from collections.abc import AsyncIterable
from datetime import UTC, datetime
from os import stat_result
from typing import Annotated, BinaryIO

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from engine.imageio.formats import FORMATS, WRITTEN
from service.archives.zip_writer import MEDIA_TYPE
from service.auth.dependencies import Forbidden, owner
from service.jobs.runner import store_job_upload
from service.jobs.store import JobRequest, Record, State
from service.jobs.worker import Worker
from service.middleware.etag import is_held
from service.params import DenoiseParams
from service.problems import ClientError, Problem, ProblemResponse, documented
from service.runtime.pipeline import refuse_unknown
from service.runtime.upload import FILE_SCHEMA, FILES_SCHEMA, OCTETS, described
from service.settings import Settings
from service.telemetry.tracing import current

# So many of the newest jobs are listed.
LISTED = 100

router = APIRouter()


class NoJobs(ClientError):
    """A service that was started without a spool."""

    status = 404


class NoSuchJob(ClientError):
    """A job that is not there, or not any more, or another's: who asks is not told which."""

    status = 404


class NotDone(ClientError):
    """A result that is asked for too early."""

    status = 409


class ResultGone(ClientError):
    """A result that had to make room."""

    status = 410


class Job(BaseModel):
    """An image, or a batch of them, that was left here."""

    id: str = Field(description="Whoever knows it can have the result, where there are no keys.")
    state: State = Field(description="What was cancelled is told to listeners, and then not there any more.")
    name: str = Field(description="What the result is called.")
    progress: float = Field(ge=0, le=1, description="Part of the pixels, or of a batch's images, that is done.")
    seconds_left: float | None = Field(description="An estimate, once there is something to make it from.")
    created: datetime
    started: datetime | None = Field(description="When it was last begun: after a restart it is begun anew.")
    ended: datetime | None
    error: Problem | None = Field(description="What POST /denoise would have answered, if it failed.")


async def _worker(request: Request) -> Worker:
    worker: Worker | None = request.state.worker
    if worker is None:
        raise NoJobs("This service keeps no jobs: it was started without a spool. POST /denoise answers at once.")
    return worker


Jobs = Annotated[Worker, Depends(_worker)]


async def _own(request: Request, worker: Jobs, id_: Annotated[str, Path(alias="id")]) -> Record:
    record = await worker.find(id_, owner(request))
    if record is None:
        raise NoSuchJob(f"There is no job {id_[:50]!r}, or not any more.")
    return record


Own = Annotated[Record, Depends(_own)]


_RESULTS = [*(FORMATS[name].media_type for name in WRITTEN), MEDIA_TYPE]
_BODY = described("What POST /denoise takes, or POST /denoise/batch.", FILES_SCHEMA, OCTETS, MEDIA_TYPE)
_ACCEPTED = {
    "description": "The job, which will be done, whether or not the service is started again meanwhile.",
    "headers": {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}},
}
_NO_JOB = {404: "No such job, or none of the sender's, or a service that keeps none."}


@router.post(
    "/jobs",
    status_code=202,
    openapi_extra=_BODY,
    responses={
        202: _ACCEPTED,
        **documented(
            {
                400: "A form or a zip that is broken or empty.",
                404: "No such model, or a service that keeps no jobs.",
                413: "Too many bytes or files.",
                422: "A form without the field, a parameter out of its range, or a format that is not written.",
                507: "No room for now.",
            }
        ),
    },
)
async def post_job(
    request: Request, response: Response, worker: Jobs, params: Annotated[DenoiseParams, Query()]
) -> Job:
    """Leave an image, or a batch of them, to be denoised. What is wrong with it is told when it is its turn.

    Without format it comes as PNG: the Accept header is about the answer to this.
    """
    settings: Settings = request.state.settings
    refuse_unknown(params, request.state.shelf.models)

    async def receive(file: BinaryIO) -> JobRequest:
        name, parts = await store_job_upload(request, file, params, settings)
        return JobRequest(owner(request), name, params.model_dump_json(), parts, current().request_id)

    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() else settings.max_batch_bytes
    record = await worker.accept(min(size, settings.max_batch_bytes), receive)
    response.headers["Location"] = request.url_for("get_job", id=record.id).path
    return _described(record, worker)


@router.get(
    "/jobs",
    responses=documented({403: "A service that is open to all.", 404: "A service that keeps no jobs."}),
)
async def get_jobs(request: Request, worker: Jobs) -> list[Job]:
    """The sender's own jobs, the newest first, and of many only the newest hundred."""
    if request.state.settings.open:
        raise Forbidden("This service is open to all and has no keys: it cannot tell whose jobs are whose.")
    return [_described(record, worker) for record in await worker.newest(owner(request), LISTED)]


@router.get("/jobs/{id}", responses=documented(_NO_JOB))
async def get_job(record: Own, worker: Jobs) -> Job:
    """How far a job is."""
    return _described(record, worker)


@router.get("/jobs/{id}/events", response_class=EventSourceResponse, responses=documented(_NO_JOB))
async def get_events(record: Own, worker: Jobs) -> AsyncIterable[ServerSentEvent]:
    """The job, now and whenever it has changed, as events that the server sends, until it has ended.

    Where the stream ends before the job, the service is being stopped: ask again.
    """
    last = None
    async for now in worker.watch(record):
        job = _described(now, worker)
        if last != (last := f"{job.state} {job.progress}"):
            yield ServerSentEvent(data=job, id=last)


@router.get(
    "/jobs/{id}/result",
    response_class=Response,
    responses={
        200: {
            "description": "What POST /denoise or /denoise/batch answers, headers too.",
            "content": {media_type: {"schema": FILE_SCHEMA} for media_type in _RESULTS},
        },
        206: {"description": "The part of it that was asked for, by Range."},
        304: {"description": "The sender has it, as If-None-Match told."},
        **documented({**_NO_JOB, 409: "Not done yet.", 410: "Done, but it had to make room for newer results."}),
    },
)
async def get_result(request: Request, record: Own, worker: Jobs) -> Response:
    """The denoised image, or the zip; of a job that failed, what it would have been answered at once."""
    if record.error is not None:
        return ProblemResponse(record.status or 500, record.error)
    if record.state != "done":
        raise NotDone(f"The job is {record.state}: there is no result yet.")
    file = worker.result(record)
    try:
        found: stat_result = await to_thread.run_sync(file.stat)
    except FileNotFoundError as error:
        raise ResultGone("The job was done, but its result had to make room for newer ones.") from error
    tag = f'"{record.digest}"'
    headers = {**json.loads(record.headers or "{}"), "ETag": tag, "Cache-Control": "private, no-cache"}
    if is_held(request, tag):
        return Response(status_code=304, headers=headers)
    return FileResponse(
        file, headers=headers, media_type=record.media_type, filename=record.name, stat_result=found
    )


@router.delete("/jobs/{id}", status_code=204, responses=documented({**_NO_JOB, 507: "The disk is full."}))
async def delete_job(record: Own, worker: Jobs) -> None:
    """Remove a job and its result. If it runs it is given up; then nobody hears of it any more."""
    await worker.remove(record.id)


def _described(record: Record, worker: Worker) -> Job:
    running = worker.running if worker.running and worker.running.id == record.id else None
    share = running.share if running else float(record.state == "done")
    left = running.seconds_left if running else None
    return Job(
        id=record.id,
        state=record.state,
        name=record.name,
        progress=round(share, 4),
        seconds_left=None if left is None else round(left, 1),
        created=datetime.fromtimestamp(record.created, UTC),
        started=_time(record.started),
        ended=_time(record.ended),
        error=None if record.error is None else Problem.of(record.status or 500, record.error),
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
