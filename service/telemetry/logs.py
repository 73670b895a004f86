"""The log: one shape for our lines and for those of the server and the libraries, for a console or as JSON.

A line says what happened and to which request, never what is in an image or what its file is called.
"""

import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

from service.settings import Settings

# Of every line, whoever writes it.
_EVERY: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

# Through the standard library's logging, with processors of its own: nothing is set for all of structlog.
log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("denoise"),
    processors=[
        structlog.stdlib.filter_by_level,
        *_EVERY,
        structlog.processors.StackInfoRenderer(),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
)


def configure(settings: Settings, stream: TextIO = sys.stderr) -> None:
    """Have all that this process logs written to the stream, in the settings' format, from their level on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(settings.log_format, stream.isatty()))
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    # Only we are asked for less than warnings: codecs would tell the metadata of the images they read.
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.getLogger("denoise").setLevel(level)
    logging.captureWarnings(True)


def _formatter(wanted: str, terminal: bool) -> logging.Formatter:
    last: list[Any]
    if wanted == "console" or (wanted == "auto" and terminal):
        # structlog's own choice would print every local variable beside a traceback, keys and images too.
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=plain)]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_EVERY, processors=[remove, *last])
