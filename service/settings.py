"""Settings of the service: environment variables `DENOISE_...`, or flags of `denoise serve`."""

import ipaddress
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine import defaults

# These fractions apply to image_memory and to body_memory.
FOR_SMALL = 1 / 4  # the part that is reserved for small images and files
SMALL = 1 / 32  # what a small image or file takes at most
# What the environment variables of the settings begin with.
PREFIX = "DENOISE_"
# The variable that is no setting of the service: it applies to every command.
KERNELS = "DENOISE_KERNELS"
# The variable that holds the API key of commands that call a service.
API_KEY = "DENOISE_API_KEY"
# What Kubernetes sets in every container if there is a service called denoise.
_OF_KUBERNETES = re.compile(r"DENOISE_(SERVICE_HOST|SERVICE_PORT.*|PORT_\d+_.*)")
ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:\d+)?")


def variable(setting: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{setting.upper()}"


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """The variables that look like settings but are none, such as mistyped ones, in words."""
    known = {*map(variable, Settings.model_fields), KERNELS, API_KEY}
    return [
        f"{name} is no setting, so it is ignored."
        + "".join(f" Did you mean {near}?" for near in get_close_matches(name, known, 1))
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known and not _OF_KUBERNETES.fullmatch(name)
    ]


def split_list(text: str | None) -> list[str]:
    """The values of a comma-separated list."""
    return [part.strip() for part in text.split(",")] if text else []


def _check_origins(text: str | None) -> str | None:
    for origin in split_list(text):
        if not ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin; write one like https://images.example:8443")
    return text


def _check_networks(text: str | None) -> str | None:
    for network in split_list(text):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"{error}; write one like 192.0.2.7 or 192.0.2.0/24") from None
    return text


def _check_database(url: str | None) -> str | None:
    if url is not None and not re.match("postgres(ql)?://", url):
        raise ValueError("it is not a URL of PostgreSQL; write one like postgresql://user:password@host/name")
    return url


def _check_blobs(url: str | None) -> str | None:
    if url is not None and not re.match("(s3|gs|az)://[^/]|file:///.", url):
        raise ValueError(f"{url!r} is not the URL of a bucket or folder; write one like s3://bucket/prefix")
    return url


class Settings(BaseSettings):
    """The bounds, default and description of each setting. An empty variable counts as not set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    weights: Path | None = Field(
        default=None,
        description="Folder of the `*.safetensors` files to serve; if not set, the installed weights.",
    )
    weights_interval: float = Field(
        default=3,
        ge=0,
        le=3600,
        description="Seconds between checks of the weights folder for new and changed files; 0 checks only at "
        "the start.",
    )
    model: str = Field(
        default=defaults.MODEL,
        min_length=1,
        description="Model for requests that name none: the name of a weights file without `.safetensors`, or "
        "`auto` or `auto-large`, which choose by the noise in the image.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Device that runs the networks: `cpu`, `cuda`, or `auto` for a GPU if there is one.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Type that networks compute in: `float32`, `bfloat16`, or `auto` for the faster one on this "
        "machine.",
    )
    max_bytes: int = Field(
        default=64 * 2**20,
        ge=1,
        description="Largest request body, in bytes; in a batch, the largest single file.",
    )
    max_batch_bytes: int = Field(
        default=2**30,
        ge=1,
        description="Largest batch, in bytes, both as uploaded and as unpacked; it is kept in a temporary file "
        "in `TMPDIR`.",
    )
    max_batch_files: int = Field(
        default=1000,
        ge=1,
        description="Largest number of images in one batch.",
    )
    max_pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="Largest width x height of a file, in pixels, summed over its pages.",
    )
    max_pages: int = Field(
        default=defaults.MAX_PAGES,
        ge=1,
        description="Largest number of pages or animation frames in one file.",
    )
    decode_seconds: float = Field(
        default=defaults.DECODE_SECONDS,
        gt=0,
        le=3600,
        description="Longest time that decoding one file may take, in seconds.",
    )
    decode_memory: int = Field(
        default=defaults.DECODE_MEMORY,
        ge=2**24,
        description="Most memory that the process that decodes one file may use, in bytes; 50 million pixels of "
        "floating point take 1.8 GB.",
    )
    memory_budget: int = Field(
        default=defaults.MEMORY_BUDGET,
        ge=2**20,
        description="Memory for the network's computation, in bytes, not counting the images.",
    )
    image_memory: int = Field(
        default=2 * 2**30,
        ge=2**24,
        description="Memory for images in work and for answers that are not sent yet, in bytes, of which a "
        "quarter is reserved for small images.",
    )
    body_memory: int = Field(
        default=256 * 2**20,
        ge=2**20,
        description="Memory for uploaded files until their images are done, in bytes, of which a quarter is "
        "reserved for small files.",
    )
    view_memory: int = Field(
        default=512 * 2**20,
        ge=0,
        description="Memory for the images that people look at on the page, in bytes, which are kept for some "
        "minutes; larger ones are sent and decoded again for each part.",
    )
    cache_bytes: int = Field(
        default=256 * 2**20,
        ge=0,
        description="Memory for results that are kept for equal requests, in bytes; 0 keeps none.",
    )
    cache_seconds: float = Field(
        default=600,
        gt=0,
        le=86_400,
        description="How long a result is kept for equal requests, in seconds.",
    )
    max_waiting: int = Field(
        default=100,
        ge=0,
        description="Largest number of images that wait, counted separately for large and for small images; "
        "further ones get 503.",
    )
    waiting_pixels: int = Field(
        default=200_000_000,
        ge=0,
        description="Most pixels that wait, counted separately for large and for small images; one image may "
        "wait whatever its size.",
    )
    deadline: float = Field(
        default=300,
        ge=0,
        le=86_400,
        description="Longest time from the end of an upload to the end of the work, in seconds, before the "
        "answer is 504; 0 means no limit.",
    )
    png_level: int = Field(
        default=defaults.PNG_LEVEL,
        ge=defaults.MIN_PNG_LEVEL,
        le=defaults.MAX_PNG_LEVEL,
        description="Compression level of PNG files, from 0 (none) to 9 (smallest and slowest); 1 is fast and "
        "good for photographs.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Number of processor threads that denoise one image; if not set, one for each core.",
    )
    max_connections: int = Field(
        default=200,
        ge=1,
        description="Number of connections that are served at once; as many again get 503, and any beyond are "
        "closed.",
    )
    idle_seconds: float = Field(
        default=60,
        gt=0,
        le=86_400,
        description="How long a connection may stay open without a complete request head, in seconds.",
    )
    upload_seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        description="How long the body of a request may take to arrive, in seconds.",
    )
    download_seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        description="How long a response may stall on a slow client, in seconds.",
    )
    spool: Path | None = Field(
        default=None,
        description="Folder for jobs, their uploads and their results; if not set, the service runs no jobs.",
    )
    spool_bytes: int = Field(
        default=10 * 2**30,
        ge=2**20,
        description="Size limit of the jobs' files, in the spool folder or in the blobs, in bytes: one half for "
        "uploads, one half for results.",
    )
    database: Annotated[str | None, AfterValidator(_check_database)] = Field(
        default=None,
        repr=False,
        description="PostgreSQL database that replicas share, like `postgresql://user:password@host/name`; if "
        "not set, the service shares nothing.",
    )
    blobs: Annotated[str | None, AfterValidator(_check_blobs)] = Field(
        default=None,
        validate_default=True,
        description="Bucket or folder that replicas share, like `s3://bucket/prefix`, or with `gs://`, `az://` "
        "or `file:///`; set it together with `DENOISE_DATABASE`, which takes the place of the spool folder.",
    )
    lease_seconds: float = Field(
        default=30,
        ge=2,
        le=3600,
        description="How long a replica that shares a database may be silent, in seconds, before another one "
        "starts its job again.",
    )
    job_hours: float = Field(
        default=24,
        gt=0,
        le=24 * 365,
        description="How long a job and its result are kept after the job has ended, in hours.",
    )
    adapt: bool = Field(
        default=False,
        description="Whether admin keys may submit jobs that train weights on noisy shots; if not, only the "
        "command `denoise adapt` does.",
    )
    adapt_minutes: float = Field(
        default=60,
        gt=0,
        le=24 * 60,
        description="Longest training that such a job may ask for, in minutes, not counting pauses.",
    )
    adapt_bytes: int = Field(
        default=2**30,
        ge=2**20,
        description="Most bytes of the unpacked shots of such a job, which are kept in a temporary folder in "
        "`TMPDIR` while it runs.",
    )
    adapt_memory: int = Field(
        default=4 * 2**30,
        ge=2**29,
        description="Most memory that the process that trains may use, in bytes.",
    )
    adapt_threads: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Number of processor threads that train.",
    )
    drain_seconds: float = Field(
        default=0,
        ge=0,
        le=3600,
        description="How long the service still accepts requests after SIGTERM, while it reports that it is not "
        "ready, in seconds; set it to the time that a load balancer needs to turn away.",
    )
    grace_seconds: float = Field(
        default=30,
        ge=0,
        le=86_400,
        description="How long accepted requests may continue after SIGTERM and the drain time, in seconds, "
        "before they are aborted.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="Format of the log on standard error: `console`, `json`, or `auto` for `console` on a "
        "terminal and `json` elsewhere.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Lowest level that is logged: `debug` (also health checks), `info` (a line for every other "
        "request), `warning` or `error`.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="File of API keys, written by `denoise keys`; a change takes effect at once.",
    )
    keys: str | None = Field(
        default=None,
        repr=False,
        description="Further API keys as `name:key`, separated by commas, each key with at least 32 characters.",
    )
    open: bool = Field(
        default=False,
        description="Whether a service without API keys answers other machines; by default it answers only its "
        "own machine.",
    )
    key_rate: int | None = Field(
        default=None,
        ge=1,
        description="Requests a minute for each API key without a limit of its own, or for all clients together "
        "if there are no keys; if not set, unlimited.",
    )
    key_pixels: int | None = Field(
        default=None,
        ge=1,
        description="Pixels an hour for each API key without a limit of its own, or for all clients together if "
        "there are no keys; if not set, unlimited.",
    )
    cors_origins: Annotated[str | None, AfterValidator(_check_origins)] = Field(
        default=None,
        description="Origins of other web pages that may use the service, like `https://images.example`, "
        "separated by commas; if not set, none.",
    )
    proxies: Annotated[str | None, AfterValidator(_check_networks)] = Field(
        default=None,
        description="Addresses or networks of trusted proxies, separated by commas, whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` headers are used; if not set, none.",
    )
    root_path: str | None = Field(
        default=None,
        pattern=r"^(/[A-Za-z0-9._~-]+)+$",
        description="Path under which a proxy serves the service, like `/denoise`; the proxy removes it before "
        "it passes a request on.",
    )

    @field_validator("body_memory")
    @classmethod
    def _check_body_memory(cls, value: int, info: ValidationInfo) -> int:
        available = int(value * (1 - FOR_SMALL))
        if (largest := info.data.get("max_bytes", 0)) > available:
            raise ValueError(f"three quarters of it, {available} bytes, must hold a body of max_bytes, {largest}")
        return value

    @field_validator("blobs")
    @classmethod
    def _check_pair(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "database" in info.data and (value is None) != (info.data["database"] is None):
            missing = variable("database" if value else "blobs")
            raise ValueError(
                f"replicas need both {variable('database')} and {variable('blobs')}, but {missing} is not set: "
                "set both, or neither"
            )
        return value
