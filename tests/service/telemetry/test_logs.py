"""Format and level of log lines."""

import io
import json
import logging
import warnings

import pytest
import structlog

from service.settings import Settings
from service.telemetry import logs
from service.telemetry.logs import log


@pytest.fixture(autouse=True)
def untouched():
    """Restore the configuration of logging after each test."""
    loggers = [logging.getLogger(name) for name in (None, "denoise")]
    before = [(each, each.level, each.handlers[:]) for each in loggers]
    # Keep pytest's handlers: logging would close them on replacement.
    logging.getLogger().handlers.clear()
    yield
    logging.captureWarnings(False)
    for each, level, handlers in before:
        each.setLevel(level)
        each.handlers[:] = handlers


@pytest.fixture
def written():
    """written(**settings): configures logging. written.lines(): the lines since then."""

    class Stream(io.StringIO):
        terminal = False

        def isatty(self):
            return self.terminal

        def __call__(self, terminal=False, **settings):
            self.terminal = terminal
            logs.configure(Settings(**settings), self)

        def lines(self):
            return [json.loads(line) for line in self.getvalue().splitlines()]

    return Stream()


def test_a_json_line_has_event_time_and_values(written):
    written(log_format="json")

    log.info("weights loaded", model="photo")

    (line,) = written.lines()
    assert (line["event"], line["model"], line["level"]) == ("weights loaded", "photo", "info")
    assert line["timestamp"].endswith("Z")


def test_lines_of_server_and_libraries_have_the_same_format(written):
    written(log_format="json")

    logging.getLogger("uvicorn.error").warning("no %s", "request")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)

    server, library = written.lines()
    assert (server["event"], server["level"], server["logger"]) == ("no request", "warning", "uvicorn.error")
    assert "old" in library["event"]


def test_every_line_of_a_request_has_its_id(written):
    written(log_format="json")

    with structlog.contextvars.bound_contextvars(request_id="abc"):
        log.info("ours")
        logging.getLogger("uvicorn.error").error("theirs")

    assert [line["request_id"] for line in written.lines()] == ["abc", "abc"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_has_no_values_of_variables(form, written):
    written(log_format=form)

    def broken(key):
        raise RuntimeError("a bug")

    secret = "of the " + "house"
    try:
        broken(secret)
    except RuntimeError:
        logging.getLogger("uvicorn.error").exception("it broke")

    text = written.getvalue()
    assert "in broken" in text
    assert "a bug" in text
    assert secret not in text


def test_a_terminal_gets_text_and_a_file_gets_json(written):
    written(terminal=True)
    log.info("to a terminal")
    first = written.getvalue()
    written(terminal=False)
    log.info("to a file")

    assert not first.startswith("{")
    assert "to a terminal" in first
    assert json.loads(written.getvalue().splitlines()[-1])["event"] == "to a file"


def test_lines_below_the_level_are_not_written(written):
    written(log_format="json", log_level="warning")

    log.info("no")
    log.warning("yes")

    assert [line["event"] for line in written.lines()] == ["yes"]


def test_metadata_logged_by_codecs_is_not_written(written):
    written(log_format="json", log_level="debug")

    logging.getLogger("PIL.TiffImagePlugin").debug("tag: Artist (315) - value: Somebody")
    log.debug("ours")

    assert [line["event"] for line in written.lines()] == ["ours"]
