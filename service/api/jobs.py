"""Jobs: routes to submit long work, follow it, and fetch its result."""

import json
import re
from collections.abc import AsyncIterable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Annotated, Any, BinaryIO, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import AfterValidator, BaseModel, Field

from engine.imageio.formats import FORMATS, WRITABLE_FORMATS
from service.api.blob_response import blob_response
from service.archives.zip_writer import MEDIA_TYPE
from service.auth.dependencies import owner
from service.jobs.records import JobRequest, Record, State, Task
from service.jobs.submission import fingerprint, refuse_params, store_job_upload
from service.jobs.worker import Worker
from service.middleware.etag import is_held
from service.params import JobParams
from service.problems import Problem, ProblemError, ProblemResponse, describe_problems
from service.registry.snapshot import Snapshot
from service.runtime.body import BodyLimit, announced
from service.runtime.upload import FILE_SCHEMA, FILES_SCHEMA, OCTETS, described
from service.settings import Settings
from service.telemetry.tracing import current_request

# GET /jobs lists this many of the newest jobs.
LISTED = 100
# An Idempotency-Key: a string of HTTP's structured fields, with or without its quotation marks.
_KEY = r'^("(?:[ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-~]{1,255})$'

router = APIRouter(tags=["jobs"])


class Improvement(BaseModel):
    """Of the adapted weights over those that training began from, in dB, with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None


class Adaptation(BaseModel):
    """How far a job with task=adapt is, and what came of it. Gains are over the noisy shots, in dB."""

    stage: Literal["examining", "preparing", "training", "judging"] | None = Field(
        None, description="Null before the start and after the end."
    )
    paused: bool = Field(
        False, description="Whether training waits, because images wait or are in work. They go first."
    )
    gain: float | None = Field(
        None, description="Gain on held-out scenes: so far, and at the end of the adapted weights."
    )
    gain_before: float | None = Field(None, description="Gain of the weights that training began from.")
    improvement: Improvement | None = None
    verdict: Literal["better", "not better"] | None = Field(
        None, description="Whether the adapted weights are certainly better, so that they may be published."
    )
    reasons: list[str] = Field([], description="Why they may not be published.")


class Job(BaseModel):
    """A submitted image or batch, or an adaptation."""

    id: str = Field(description="In a service without API keys, anyone who knows the ID can fetch the result.")
    state: State = Field(description="cancelled is only sent as an event: the job is then deleted.")
    task: Task
    name: str = Field(description="File name of the result.")
    progress: float = Field(
        ge=0,
        le=1,
        description="Fraction of the pixels, or of a batch's images, or of an adaptation's stages, that is done.",
    )
    seconds_left: float | None = Field(description="Estimate without pauses; null until there is progress.")
    created: datetime
    started: datetime | None = Field(
        description="Time of the last start. A restart of the service starts the job again."
    )
    ended: datetime | None
    error: Problem | None = Field(description="If the job failed, the problem that POST /denoise would answer.")
    adaptation: Adaptation | None = Field(description="Null for other tasks.")


async def _worker(request: Request) -> Worker:
    worker: Worker | None = request.state.worker
    if worker is None:
        raise ProblemError(
            "This service runs no jobs, because it was started without a spool folder. Use POST /denoise.",
            404,
            kind="NoJobs",
        )
    return worker


Jobs = Annotated[Worker, Depends(_worker)]


async def _own_job(request: Request, worker: Jobs, id_: Annotated[str, Path(alias="id")]) -> Record:
    record = await worker.find(id_, owner(request))
    if record is None:
        raise ProblemError(f"There is no job {id_[:50]!r}. It may have expired.", 404, kind="NoSuchJob")
    return record


OwnJob = Annotated[Record, Depends(_own_job)]


_RESULTS = [*(FORMATS[name].media_type for name in WRITABLE_FORMATS), MEDIA_TYPE]
_BODY = described(
    "The body of POST /denoise or POST /denoise/batch. For task=adapt, a zip of noisy shots.",
    FILES_SCHEMA,
    JobParams,
    OCTETS,
    MEDIA_TYPE,
)


def _parse_key(text: str | None) -> str | None:
    """The key without its quotation marks. Raises ValueError."""
    if text is None:
        return None
    if not re.fullmatch(_KEY, text):
        raise ValueError(f"{text[:100]!r} is not 1 to 255 ASCII characters in quotation marks")
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


_IdempotencyKey = Annotated[
    str | None,
    AfterValidator(_parse_key),
    Header(
        alias="Idempotency-Key",
        description="A string of your choice, with at most 255 characters. A request with the same key and the "
        "same content gets the same job, so it can be repeated if its answer was lost. The key is known as long "
        "as the job.",
        json_schema_extra={"pattern": _KEY},
    ),
]
_ACCEPTED = {
    "description": "The job. It will be done, even if the service restarts meanwhile.",
    "headers": {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}},
}
_NO_JOB = {
    404: "No such job, a job of another key, or a service without jobs.",
    503: "The database or the file store that replicas share is away. See Retry-After.",
}


@router.post(
    "/jobs",
    operation_id="submit_job",
    summary="Submit long work as a job",
    status_code=202,
    openapi_extra=_BODY,
    responses={
        202: _ACCEPTED,
        **describe_problems(
            {
                400: "A broken or empty form or zip, or a zip with unsafe names.",
                403: "task=adapt without an admin key, or in a service that does not adapt.",
                404: "No such model, or a service without jobs.",
                413: "Too many bytes or files.",
                415: "An unsupported compression of the body; for task=adapt also links, encrypted files and "
                "zips in the zip.",
                409: "The job with the Idempotency-Key was deleted just now. Repeat the request.",
                422: "A form without the field, an unknown or invalid parameter, a format that is not "
                "written, or an Idempotency-Key that came with another request before.",
                503: "The database or the file store that replicas share is away. See Retry-After. The job may "
                "have been accepted: repeat the request with the same Idempotency-Key.",
                507: "The spool is full. See Retry-After.",
            }
        ),
    },
)
async def post_job(
    request: Request,
    response: Response,
    worker: Jobs,
    params: Annotated[JobParams, Query()],
    key: _IdempotencyKey = None,
) -> Job:
    """Submit an image or a batch as a job. The job reports errors in the images when it runs.

    Without `format` the result is PNG: the Accept header applies to the answer of this request. With task=adapt
    the job trains weights on the noisy shots in a zip, which takes an admin key. Its result is a zip with the
    weights and a report.
    """
    settings: Settings = request.state.settings
    models: Snapshot = request.state.registry.models
    refuse_params(request, params, settings, models)

    async def receive(file: BinaryIO) -> JobRequest:
        upload = await store_job_upload(request, file, params, settings, models)
        given = upload.params.model_dump_json()
        content = await to_thread.run_sync(fingerprint, file, upload) if key else None
        request_id = current_request().request_id
        return JobRequest(
            owner(request),
            upload.name,
            given,
            upload.parts,
            request_id,
            upload.bytes,
            key,
            content,
            upload.task,
        )

    size = announced(request, BodyLimit.of(settings, "max_batch_bytes")) or settings.max_batch_bytes
    record = await worker.accept(size, receive)
    response.headers["Location"] = request.url_for("get_job", id=record.id).path
    return _to_job(record)


@router.get(
    "/jobs",
    operation_id="list_jobs",
    summary="List the newest jobs",
    responses=describe_problems(
        {403: "A service without API keys, started with --open.", 404: "A service without jobs."}
    ),
)
async def get_jobs(request: Request, worker: Jobs) -> list[Job]:
    """List the newest 100 jobs of the API key, newest first."""
    if request.state.settings.open:
        raise ProblemError(
            "This service has no API keys, so it cannot tell whose jobs are whose. Ask for a job by its ID.", 403
        )
    return [_to_job(record) for record in await worker.newest(owner(request), LISTED)]


@router.get(
    "/jobs/{id}",
    operation_id="get_job",
    summary="State and progress of a job",
    responses=describe_problems(_NO_JOB),
)
async def get_job(record: OwnJob) -> Job:
    """State and progress of a job."""
    return _to_job(record)


@router.get(
    "/jobs/{id}/events",
    operation_id="watch_job",
    summary="Follow a job by server-sent events",
    response_class=EventSourceResponse,
    responses=describe_problems(_NO_JOB),
)
async def get_events(record: OwnJob, worker: Jobs) -> AsyncIterable[ServerSentEvent]:
    """Server-sent events with the job, now and after every change, until it has ended.

    If the stream ends before the job does, the service is stopping: ask again later.
    """
    last = None
    async with aclosing(worker.watch(record)) as changes:
        async for changed in changes:
            job = _to_job(changed)
            if last != (last := f"{job.state} {job.progress}{_stage(job)}"):
                yield ServerSentEvent(data=job, id=last)


@router.get(
    "/jobs/{id}/result",
    operation_id="get_job_result",
    summary="Result of a job",
    response_class=Response,
    responses={
        200: {
            "description": "The answer of POST /denoise or /denoise/batch, with its headers. For task=adapt, a "
            "zip with NAME.safetensors, or NAME.refused.safetensors, and the report NAME.html and NAME.json.",
            "content": {media_type: {"schema": FILE_SCHEMA} for media_type in _RESULTS},
        },
        206: {"description": "The requested Range of the result."},
        304: {"description": "The client has the result, according to If-None-Match."},
        **describe_problems(
            {**_NO_JOB, 409: "Not done yet.", 410: "Done, but removed to make room for newer results."}
        ),
    },
)
async def get_result(request: Request, record: OwnJob, worker: Jobs) -> Response:
    """The denoised image or the zip. For a job that failed, the problem that POST /denoise would answer.

    For shots that nothing can be learnt from, `report` in the problem has what was found in them.
    """
    if record.error is not None:
        more = {"report": report} if (report := _details(record).get("report")) else {}
        return ProblemResponse(record.status or 500, record.error, more=more)
    if record.state != "done":
        raise ProblemError(f"The job is {record.state}. It has no result yet.", 409, kind="NotDone")
    tag = f'"{record.digest}"'
    headers = {**json.loads(record.headers or "{}"), "ETag": tag, "Cache-Control": "private, no-cache"}
    try:
        found = await worker.result(record)
        if is_held(request, tag):
            return Response(status_code=304, headers=headers)
        if not isinstance(found, FilePath):
            return await blob_response(request, found, headers, record.media_type, record.name)
        known = await to_thread.run_sync(found.stat)
    except FileNotFoundError as error:
        raise ProblemError(
            "The job was done, but its result was removed to make room for newer ones.", 410, kind="ResultGone"
        ) from error
    return FileResponse(
        found, headers=headers, media_type=record.media_type, filename=record.name, stat_result=known
    )


@router.delete(
    "/jobs/{id}",
    operation_id="delete_job",
    summary="Cancel and delete a job",
    status_code=204,
    responses=describe_problems({**_NO_JOB, 507: "The disk is full."}),
)
async def delete_job(record: OwnJob, worker: Jobs) -> None:
    """Delete a job and its result. A running job is cancelled."""
    await worker.remove(record.id)


def _to_job(record: Record) -> Job:
    progress = 1.0 if record.state == "done" else record.progress if record.state == "running" else 0.0
    seconds_left = record.seconds_left if record.state == "running" else None
    return Job(
        id=record.id,
        state=record.state,
        task=record.task,
        name=record.name,
        progress=round(progress, 4),
        seconds_left=None if seconds_left is None else round(seconds_left, 1),
        created=datetime.fromtimestamp(record.created, UTC),
        started=_time(record.started),
        ended=_time(record.ended),
        error=None if record.error is None else Problem.of(record.status or 500, record.error),
        adaptation=None if record.task == "denoise" else Adaptation.model_validate(_details(record)),
    )


def _details(record: Record) -> dict[str, Any]:
    details: dict[str, Any] = json.loads(record.details or "{}")
    return {**details, "stage": None, "paused": False} if record.ended else details


def _stage(job: Job) -> str:
    """What distinguishes two events of an adaptation beside the progress."""
    if job.adaptation is None or job.adaptation.stage is None:
        return ""
    return f" {job.adaptation.stage}{' paused' * job.adaptation.paused}"


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
