import inspect

import pytest
from django.db import DataError

from plugins import errors
from serving_app.api.problems import STATUS, exception_handler, problem_of


def test_every_error_has_its_status_code():
    raised = {
        error
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.RecserveError)
    }
    assert set(STATUS) == raised


@pytest.mark.contract("A5")
def test_the_callers_errors_are_4xx_and_ours_are_not_blamed_on_the_caller():
    for error, status in STATUS.items():
        if issubclass(error, errors.BadRequest):
            assert 400 <= status < 500
        if issubclass(error, errors.Unavailable):
            assert status in {429, 500, 503, 504}


@pytest.mark.contract("A5")
def test_a_problem_is_complete():
    problem = problem_of(errors.QueueFull("full", retry_after=2.3))
    assert problem == {
        "type": "urn:recserve:problem:queue-full",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "full",
        "code": "queue-full",
        "retry_after": 2.3,
    }


@pytest.mark.contract("A5")
def test_what_the_database_cannot_hold_is_the_callers_error():
    body = exception_handler(DataError("no NUL"), {"view": None, "request": None}).data
    assert (body["status"], body["code"]) == (422, "invalid-input")
    assert "no NUL" not in body["detail"]
