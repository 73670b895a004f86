"""Logging: one format for the service, the server and the libraries, as console text or JSON.

A line says what happened and in which request. It never contains image data or file names.
"""

import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

from service.settings import Settings

# Applied to every line, also to those of libraries.
_SHARED_PROCESSORS: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

# Wraps the standard library's logger with processors of its own, so structlog's global configuration stays unset.
log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("denoise"),
    processors=[
        structlog.stdlib.filter_by_level,
        *_SHARED_PROCESSORS,
        structlog.processors.StackInfoRenderer(),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
)


def configure(settings: Settings, stream: TextIO = sys.stderr) -> None:
    """Write all log lines of this process to the stream, in the format and from the level of the settings."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(settings.log_format, stream.isatty()))
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    # Levels below warning apply to the service only: image codecs log the metadata of images at debug level.
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.getLogger("denoise").setLevel(level)
    logging.captureWarnings(True)


def _formatter(format_: str, terminal: bool) -> logging.Formatter:
    last: list[Any]
    if format_ == "console" or (format_ == "auto" and terminal):
        # structlog's default prints the local variables of a traceback, which may include keys and images.
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=plain)]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED_PROCESSORS, processors=[remove, *last])
