"""Error answers: status, headers and the name of the error."""

import json

import pytest

from engine.imageio.formats import NotAnImage
from service.problems import ENGINE_STATUS, ProblemError, problem_of


class DiskFull(ProblemError):
    status = 507


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ProblemError("Not like that."), 400, "BadRequest"),
        (ProblemError("Not here.", 404), 404, "NotFound"),
        (ProblemError("Not here.", 404, kind="NoSuchJob"), 404, "NoSuchJob"),
        (DiskFull("Not now."), 507, "DiskFull"),
        (DiskFull("Not now.", 503), 503, "DiskFull"),
    ],
)
def test_an_error_has_a_status_and_a_kind(error, status, kind):
    answer = problem_of(error)

    assert (answer.status_code, error.kind) == (status, kind)
    assert answer.media_type == "application/problem+json"
    assert json.loads(answer.body)["detail"] == str(error)


def test_an_error_sends_its_headers():
    answer = problem_of(ProblemError("Later.", 503, {"Retry-After": "5"}))

    assert answer.headers["retry-after"] == "5"


def test_an_engine_error_has_its_status_in_the_table():
    answer = problem_of(NotAnImage("no image"))

    assert answer.status_code == ENGINE_STATUS[NotAnImage] == 400


def test_a_bug_is_answered_without_details():
    answer = problem_of(RuntimeError("a secret"))

    assert answer.status_code == 500
    assert b"secret" not in answer.body
