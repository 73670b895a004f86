"""What the operator decides: environment variables `DENOISE_...`, or flags of `denoise serve`."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# Of the memory for images, and of that for their files: the part that only small ones take, and the part of it
# all that a small one takes at most.
FOR_SMALL = 1 / 4
SMALL = 1 / 32
ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:\d+)?")


def split_list(text: str | None) -> list[str]:
    """What stands between the commas."""
    return [part.strip() for part in text.split(",")] if text else []


def _origins(text: str | None) -> str | None:
    for origin in split_list(text):
        if not ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin; taken are ones like https://images.example:8443")
    return text


def _networks(text: str | None) -> str | None:
    for network in split_list(text):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"{error}; taken are ones like 192.0.2.7 or 192.0.2.0/24") from None
    return text


class Settings(BaseSettings):
    """Each setting's bounds, default, and what it is, with its unit. An empty variable counts as not set."""

    model_config = SettingsConfigDict(env_prefix="DENOISE_", env_ignore_empty=True, frozen=True)

    weights: Path | None = Field(
        default=None,
        description="Folder whose `*.safetensors` files are served; if not set, the weights of the installation.",
    )
    weights_interval: float = Field(
        default=3,
        ge=0,
        le=3600,
        description="Seconds between looks at that folder for new and changed files, which are then served; "
        "0 looks only at the start.",
    )
    model: str = Field(
        default="auto",
        min_length=1,
        description="The weights to use where a request names none: a file's name without `.safetensors`, or "
        "`auto`, which looks at the noise and takes `photo-gaussian` where it is white or may be none at all, "
        "or `photo-grey` if the image is grey, else `photo`; `auto-large` takes `photo-gaussian-large` instead "
        "of `photo-gaussian`.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where networks run: `cpu`, `cuda`, or `auto`, which is a GPU where there is one.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Type that networks multiply in: `float32`, `bfloat16`, or `auto`, the faster one here.",
    )
    max_bytes: int = Field(
        default=64 * 2**20,
        ge=1,
        description="Largest request body taken, in bytes; of a batch, the largest of its files.",
    )
    max_batch_bytes: int = Field(
        default=2**30,
        ge=1,
        description="Largest batch taken, in bytes, as it comes and as it unpacks. Until it is answered it lies "
        "in a temporary file (`TMPDIR` says where).",
    )
    max_batch_files: int = Field(default=1000, ge=1, description="Most images taken in one batch.")
    max_pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="Largest width x height taken, in pixels, of all pages together.",
    )
    max_pages: int = Field(
        default=100, ge=1, description="Most pages, or frames of an animation, taken from one file."
    )
    decode_seconds: float = Field(
        default=60,
        gt=0,
        le=3600,
        description="Longest that decoding one file may take, in seconds; it is then given up.",
    )
    decode_memory: int = Field(
        default=2 * 2**30,
        ge=2**24,
        description="Most memory that decoding one file may take, in bytes, in a process of its own beside the "
        "service; 50 million pixels of floating point take 1.8 GB.",
    )
    memory_budget: int = Field(
        default=256 * 2**20,
        ge=2**20,
        description="Memory for the network's work, in bytes, beside the images themselves.",
    )
    image_memory: int = Field(
        default=2 * 2**30,
        ge=2**24,
        description="Memory for images in work and for answers until they are sent, in bytes: 20 a pixel, of "
        "16 bits 40, of floats 60; 40 more for WebP and AVIF; twice as much to compare. A quarter is kept for "
        "images that take a 32nd or less; one that takes more than the rest is refused.",
    )
    body_memory: int = Field(
        default=256 * 2**20,
        ge=2**20,
        description="Memory for the files that are sent, in bytes, until their images are done. A quarter is "
        "kept for files that take a 32nd or less.",
    )
    max_waiting: int = Field(
        default=100,
        ge=0,
        description="Most images that wait for their turn, of large and of small ones each; others get 503.",
    )
    waiting_pixels: int = Field(
        default=200_000_000,
        ge=0,
        description="Most pixels of images that wait for their turn, likewise. One may wait whatever its size.",
    )
    deadline: float = Field(
        default=300,
        ge=0,
        le=86_400,
        description="How long an image may take from the end of its upload, in seconds, its wait included; then "
        "it is given up and answered 504. 0 is for ever.",
    )
    png_level: int = Field(
        default=1,
        ge=0,
        le=9,
        description="How hard PNGs are compressed: 0 not at all, 1 fast and good for photographs, 9 slowest.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Processor threads that one image is denoised with; if not set, one for each core.",
    )
    max_connections: int = Field(
        default=200,
        ge=1,
        description="Connections that are served at once; as many more are answered 503, others not at all. Each "
        "takes a file descriptor.",
    )
    idle_seconds: float = Field(
        default=60,
        gt=0,
        le=86_400,
        description="How long a connection stays open, in seconds, without a request or with half of its head.",
    )
    upload_seconds: float = Field(
        default=300, gt=0, le=86_400, description="How long the body of a request may take to arrive, in seconds."
    )
    download_seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        description="How long a client may have us wait while it reads an answer, in seconds.",
    )
    spool: Path | None = Field(
        default=None,
        description="Folder for jobs, their uploads and their results, which outlast a restart; this service's "
        "alone. If not set, there are no jobs and nothing is kept.",
    )
    spool_bytes: int = Field(
        default=10 * 2**30,
        ge=2**20,
        description="What the spool may hold, in bytes: half for uploads, beyond which no job is taken, and half "
        "for results, of which the oldest make room for new ones.",
    )
    job_hours: float = Field(
        default=24,
        gt=0,
        le=24 * 365,
        description="How long a job that has ended is kept, with its result, in hours.",
    )
    grace_seconds: float = Field(
        default=30,
        ge=0,
        le=86_400,
        description="How long work that was accepted may go on after SIGTERM, in seconds, before it is cut off.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="How the log is written, to standard error: `console`, `json`, or `auto`, which is `console` "
        "on a terminal.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The least that is logged: `debug`, with the questions about health, `info`, with a line for "
        "every other request, `warning` or `error`.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="File of the keys that requests must carry, written by `denoise keys`; what changes "
        "counts at once.",
    )
    keys: str | None = Field(
        default=None,
        repr=False,
        description="More keys, `name:key` with commas between, each of 32 characters or more. No flag of "
        "`denoise serve`: what a command line holds, others on the machine can read.",
    )
    open: bool = Field(
        default=False,
        description="Whether a service without keys answers whoever comes; else it answers only its own machine.",
    )
    key_rate: int | None = Field(
        default=None,
        ge=1,
        description="Requests a minute taken of one key, unless it has its own limit, or of all together where "
        "there are no keys; if not set, any number.",
    )
    key_pixels: int | None = Field(
        default=None,
        ge=1,
        description="Pixels an hour denoised for one key, likewise. An image that goes beyond is done; then "
        "nothing is taken until the hours have made up for it.",
    )
    cors_origins: Annotated[str | None, AfterValidator(_origins)] = Field(
        default=None,
        description="Web pages of other origins that may use the service, like `https://images.example`, with "
        "commas between; if not set, none.",
    )
    proxies: Annotated[str | None, AfterValidator(_networks)] = Field(
        default=None,
        description="Addresses or networks of proxies, with commas between, whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` are believed; if not set, nobody's.",
    )
    root_path: str | None = Field(
        default=None,
        pattern=r"^(/[A-Za-z0-9._~-]+)+$",
        description="Path that a proxy serves it under, like `/denoise`; it passes requests on without it.",
    )

    @field_validator("body_memory")
    @classmethod
    def _holds_a_body(cls, value: int, info: ValidationInfo) -> int:
        most = int(value * (1 - FOR_SMALL))
        if (largest := info.data.get("max_bytes", 0)) > most:
            raise ValueError(f"three quarters of it, {most} bytes, have to hold a body of max_bytes, {largest}")
        return value
