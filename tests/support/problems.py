"""The form of every error answer, and the limits of the service that tests share."""

MAX_BYTES = 20_000  # of a request's body
MAX_PIXELS = 2_000  # of an image


def assert_problem(response, status, *words):
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail"}
    assert (response.status_code, problem["status"]) == (status, status)
    for word in words:
        assert word in problem["detail"]
