"""Submission: checks what is asked of a job, and stores its upload."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from anyio import to_thread
from fastapi import Request

from engine.imageio.formats import FORMATS, SAME, Format, suffix_of
from service.archives.upload import read_entries, starts_as_zip, store_upload
from service.archives.zip_folder import check_zip
from service.archives.zip_reader import safe_name
from service.archives.zip_writer import NAME
from service.auth.dependencies import refuse_without_admin
from service.jobs.records import Task
from service.params import AdaptParams, DenoiseParams, JobParams
from service.problems import ProblemError, limit_note
from service.registry.snapshot import Snapshot
from service.runtime.body import BodyTooLarge
from service.runtime.form import Part
from service.runtime.parameters import with_fields
from service.runtime.pipeline import refuse_unknown
from service.settings import Settings, variable

# Minutes of training if the request does not say how many, and the service allows so many.
MINUTES = 30.0


class AdaptOff(ProblemError):
    """An adaptation in a service that does none."""

    status = 403

    def __init__(self) -> None:
        super().__init__(
            f"This service does not adapt weights: {variable('adapt')} is not set. The command `denoise adapt` "
            "does."
        )


class OtherTask(ProblemError):
    """A parameter that belongs to another task."""

    status = 422


class TooManyMinutes(ProblemError):
    """A longer training than the service allows."""

    status = 422


class NotAZip(ProblemError):
    """Shots that do not come as one zip."""


@dataclass(frozen=True)
class JobUpload:
    """A stored upload. name: of the result. parts: the files of a batch, as JSON; else an empty list.

    params: those of the query together with those in the fields of the form. bytes: of all files.
    """

    name: str
    parts: str
    params: DenoiseParams | AdaptParams
    bytes: int
    task: Task = "denoise"


async def store_job_upload(
    request: Request, file: BinaryIO, params: JobParams, settings: Settings, models: Snapshot
) -> JobUpload:
    """Writes the upload to `file`, which is empty. params: those of the query.

    Raises what store_upload, with_fields, refuse_params, read_entries and check_zip raise, BodyTooLarge, NotAZip.
    """
    stored = await store_upload(request, file, settings)
    params = with_fields(params, request, stored.fields)
    refuse_params(request, params, settings, models)
    size = await to_thread.run_sync(file.tell)
    if params.task == "adapt":
        await to_thread.run_sync(_check_shots, file, stored.parts, settings)
        adapting = params.adapting
        minutes = adapting.minutes or min(MINUTES, settings.adapt_minutes)
        adapting = adapting.model_copy(update={"minutes": minutes})
        return JobUpload(f"{adapting.name}.zip", "[]", adapting, size, "adapt")
    name, parts = await _check_images(file, stored.parts, params, settings)
    return JobUpload(name, parts, params.denoising, size)


def refuse_params(request: Request, params: JobParams, settings: Settings, models: Snapshot) -> None:
    """Raises AdaptOff, OtherTask, TooManyMinutes, and ProblemError with status 403 or 404."""
    if params.task == "adapt":
        if not settings.adapt:
            raise AdaptOff
        refuse_without_admin(request, "task=adapt")
    for name in params.misplaced:
        raise OtherTask(f"The parameter {name!r} is not one of task={params.task}. Leave it out.")
    if params.task == "denoise":
        refuse_unknown(params, models)
        return
    if params.minutes and params.minutes > settings.adapt_minutes:
        raise TooManyMinutes(
            f"minutes is {params.minutes:g}; at most {settings.adapt_minutes:g} are allowed. "
            + limit_note("adapt_minutes")
        )
    if params.start != "auto" and params.start not in models.by_name:
        known = ", ".join(models.by_name)
        raise ProblemError(
            f"There are no weights {params.start!r} to start from. Available: auto, {known}.",
            404,
            kind="NoSuchModel",
        )


def _check_shots(file: BinaryIO, parts: Sequence[Part], settings: Settings) -> None:
    if len(parts) > 1 or not starts_as_zip(file):
        what = f"The form has {len(parts)} files" if len(parts) > 1 else "The upload is not a zip"
        raise NotAZip(f"{what}. Send the noisy shots as one zip.")
    check_zip(file, settings.max_batch_files, settings.adapt_bytes, "adapt_bytes")


async def _check_images(
    file: BinaryIO, parts: Sequence[Part], params: JobParams, settings: Settings
) -> tuple[str, str]:
    """The name of the result, and the files of a batch, as JSON. Refuses a broken zip at once."""
    if await to_thread.run_sync(_is_batch, file, parts):
        await to_thread.run_sync(read_entries, file, parts, settings)
        return NAME, json.dumps([asdict(part) for part in parts])
    only = parts[0]
    if only.size > settings.max_bytes:
        raise BodyTooLarge(
            f"The image has {only.size} bytes; at most {settings.max_bytes} are allowed.", "max_bytes"
        )
    name = PurePosixPath(safe_name(only.name or "image")).name
    return name if params.target == SAME else with_suffix(name, FORMATS[params.target]), "[]"


def fingerprint(file: BinaryIO, upload: JobUpload) -> str:
    """A digest that is equal for equal requests, however their forms are written. file: the stored upload."""
    file.seek(0)
    content = hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()
    parts = (upload.task, upload.name, upload.parts, upload.params.model_dump_json(), content)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _is_batch(file: BinaryIO, parts: Sequence[Part]) -> bool:
    return len(parts) > 1 or starts_as_zip(file)


def with_suffix(name: str, kind: Format) -> str:
    """The file's name with the format's suffix, unless it has one already."""
    path = PurePosixPath(name)
    return name if path.suffix.lower() in kind.suffixes else f"{path.stem}{suffix_of(kind)}"
