"""What a server refuses comes out as the error that it raised inside."""

from __future__ import annotations

from typing import Any

import pytest

from freeroam.api.problems import problem_of, status_of
from freeroam.client.refusals import error_of, told_error
from freeroam.vocabulary import errors

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, errors.FreeroamError)
    and kind not in {errors.SourceError, errors.MissingExtra}
]


def carried(error: errors.FreeroamError) -> errors.FreeroamError:
    """Return ``error`` as it comes out of the client after the server has told it."""
    told = problem_of(error)
    headers = {name.decode(): value.decode() for name, value in told.raw_headers}
    return error_of(told.status_code, headers, bytes(told.body))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_survives_the_wire(kind: type[errors.FreeroamError]) -> None:
    # Given an error inside the server, when it has gone over the wire, then it is the same one
    error = carried(kind("what was wrong"))
    assert type(error) is kind
    assert (error.message, error.code) == ("what was wrong", kind.default_code)


@pytest.mark.parametrize("code", list(errors.SourceErrorCode))
def test_errors_of_sources_keep_their_code(code: errors.SourceErrorCode) -> None:
    # Given an error of a source, when it has gone over the wire, then its code tells the same
    error = carried(errors.SourceError(code, "no video"))
    assert error.code == code
    assert isinstance(error, errors.SourceError | errors.InvalidInput | errors.Unavailable)


@pytest.mark.parametrize("code", ["replica_lost", "inference_timeout", "load_failed"])
def test_errors_of_models_keep_their_code(code: str) -> None:
    # Given a model that failed in one of its ways, when it is told, then it is a ModelError that says which
    error = carried(errors.ModelError("gone", code=code))
    assert (type(error), error.code) == (errors.ModelError, code)


@pytest.mark.parametrize(("retry_after_s", "told_s"), [(0.2, 1.0), (7.0, 7.0), (7.2, 8.0)])
def test_when_to_come_back_is_told(retry_after_s: float, told_s: float) -> None:
    # Given a full queue, when it is told, then the caller knows when to come back, in whole seconds as HTTP says it
    error = carried(errors.QueueFull("full", retry_after_s=retry_after_s))
    assert isinstance(error, errors.QueueFull)
    assert error.retry_after_s == told_s


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidInput),
        (404, errors.NotFound),
        (413, errors.TooLarge),
        (429, errors.RateLimited),
        (500, errors.FreeroamError),
        (502, errors.Unreachable),
        (503, errors.Unavailable),
        (504, errors.DeadlineExceeded),
        (418, errors.FreeroamError),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b'{"error": 5}', b"[]", b"\xff"])
def test_what_a_proxy_says_is_told_by_its_status(status: int, kind: type[Any], body: bytes) -> None:
    # Given a refusal that is none of ours, when it is read, then its status says what it is
    error = error_of(status, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, body)
    assert type(error) is kind
    assert str(status) in error.message


def test_an_error_says_where_to_look_it_up() -> None:
    # Given an answer with a request id, when it is read, then the error carries the id
    error = error_of(500, {"x-request-id": "abc"}, b'{"error": "Internal error", "detail": null}')
    assert error.__notes__ == ["HTTP 500, X-Request-ID abc"]
    assert status_of(error) == 500


@pytest.mark.parametrize("retry_after", ["-1", "nan", "inf", "soon", ""])
def test_a_senseless_retry_after_is_passed_over(retry_after: str) -> None:
    # Given a header that says nothing, when the refusal is read, then the pause is a finite one
    error = error_of(503, {"retry-after": retry_after}, b"")
    assert isinstance(error, errors.Unavailable)
    assert 0 <= error.retry_after_s <= 1e6


def test_detail_that_is_no_object_is_kept() -> None:
    # Given detail that is a list, as of validation, when it is read, then it is kept
    problems = [{"field": "fps", "message": "must be above 0"}]
    error = told_error("fps: must be above 0", problems, errors.InvalidInput)
    assert (type(error), error.detail) == (errors.InvalidInput, problems)
