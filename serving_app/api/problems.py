"""Errors become RFC 9457 problem details here: the one table of status codes."""

from __future__ import annotations

import http
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import DatabaseError, DataError, InterfaceError, OperationalError
from django.db.models import ProtectedError, RestrictedError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from plugins import errors
from serving_app.core.access import CHALLENGE
from serving_app.core.request_record import current

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"

STATUS: Mapping[type[errors.RecserveError], int] = {
    errors.ModelNotFound: 404,
    errors.InvalidInput: 422,
    errors.TokenNotValid: 401,
    errors.ModelNotPermitted: 403,
    errors.ExplanationNotPermitted: 403,
    errors.Throttled: 429,
    errors.BadRequest: 400,
    errors.ModelNotReady: 503,
    errors.InferenceError: 500,
    errors.QueueFull: 429,
    errors.DeadlineExceeded: 504,
    errors.Unavailable: 503,
    errors.ArtifactRejected: 422,
    errors.UnknownPlugin: 422,
    errors.InvalidOptions: 422,
    errors.PluginError: 500,
    errors.LevelUnavailable: 500,
    errors.RecserveError: 500,
}
"""HTTP status by error; a test holds it complete."""


def problem(status: int, code: str, detail: str, **extra: Any) -> dict[str, Any]:
    """Return a problem details object; ``code`` is stable, for programs to compare."""
    return {
        "type": f"urn:recserve:problem:{code}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        **extra,
    }


def with_request_id(body: dict[str, Any]) -> dict[str, Any]:
    """Add the id of the request under way to the problem that answers it, and log its code."""
    record = current()
    if record is not None:
        body["request_id"] = record.id
        record.code = body["code"]
    return body


def problem_of(error: errors.RecserveError) -> dict[str, Any]:
    """Return the problem details of one of recserve's own errors."""
    extra: dict[str, Any] = {}
    if isinstance(error, errors.InvalidInput):
        extra["errors"] = [{"field": error.field, "detail": str(error)}]
        if error.source:
            extra["source"] = error.source
    retry_after = retry_after_of(error)
    if retry_after is not None:
        extra["retry_after"] = (
            round(error.retry_after, 3) if isinstance(error, errors.QueueFull) else retry_after
        )
    return problem(STATUS[type(error)], _code(type(error).__name__), str(error), **extra)


def _code(name: str) -> str:
    """Return ``model-not-found`` for ``ModelNotFound`` or ``model_not_found``."""
    dashed = "".join(f"-{c.lower()}" if c.isupper() else c for c in name)
    return dashed.lstrip("-").replace("_", "-")


def retry_after_of(error: errors.RecserveError) -> int | None:
    """Return whole seconds after which to ask again, at least one; None: that will not help."""
    if isinstance(error, errors.QueueFull | errors.ModelNotReady | errors.Throttled):
        return max(1, math.ceil(error.retry_after))
    return None


def django_error(request: HttpRequest, status: int, code: str, detail: str) -> HttpResponse | None:
    """Return the answer to an error outside of any view; None: not of the API.

    It is problem details, and below ``/v2`` what the Open Inference Protocol says.
    """
    if request.path == "/v2" or request.path.startswith("/v2/"):
        return HttpResponse(
            msgspec.json.encode({"error": detail}), status=status, content_type="application/json"
        )
    if not request.path.startswith(("/api/", "/metrics")):
        return None
    body = msgspec.json.encode(with_request_id(problem(status, code, detail)))
    return HttpResponse(body, status=status, content_type=CONTENT_TYPE)


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Response:
    """Return the problem details response of any exception that leaves a view."""
    set_rollback()
    headers: dict[str, str] = {}
    body = with_request_id(response_of(error, headers))
    if body["status"] == 500:
        logger.error("Unexpected error in %s", context["view"], exc_info=error)
    response = Response(body, status=body["status"], headers=headers)
    renderer = getattr(context["request"], "accepted_renderer", None)
    if renderer is None or renderer.format == "json":
        response.content_type = CONTENT_TYPE
    return response


def response_of(error: Exception, headers: dict[str, str]) -> dict[str, Any]:
    """Return the problem details of an exception, and add the headers that go with it."""
    if isinstance(error, DatabaseError | InterfaceError):  # of Django, neither is the other
        error = _of_database(error)
    if isinstance(error, errors.RecserveError):
        retry_after = retry_after_of(error)
        if retry_after is not None:
            headers["Retry-After"] = str(retry_after)
        if isinstance(error, errors.TokenNotValid):
            headers["WWW-Authenticate"] = CHALLENGE
        return problem_of(error)
    if isinstance(error, Http404):
        error = exceptions.NotFound(str(error) or None)
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied(str(error) or None)
    elif isinstance(error, ValidationError):
        return problem(422, "invalid", " ".join(error.messages))
    elif isinstance(error, ProtectedError | RestrictedError):
        return problem(409, "in-use", str(error.args[0]))
    if isinstance(error, exceptions.ValidationError):
        found = [{"field": field, "detail": detail} for field, detail in _flat(error.detail)]
        detail = " ".join(f"{e['field']}: {e['detail']}" for e in found)
        return problem(422, "invalid", detail, errors=found)
    if isinstance(error, exceptions.APIException):
        challenge = getattr(error, "auth_header", None)
        if challenge:
            headers["WWW-Authenticate"] = challenge
        wait = getattr(error, "wait", None)
        if wait:
            headers["Retry-After"] = str(math.ceil(wait))
        return problem(error.status_code, *_api_problem(error))
    return problem(500, "internal", "Something went wrong on our side; it has been logged.")


def _of_database(error: DatabaseError | InterfaceError) -> Exception:
    """Return what an error of the database means to the caller; itself: it is a fault of ours."""
    if isinstance(error, OperationalError | InterfaceError):
        logger.warning("The database does not answer: %s", error)
        return errors.Unavailable("The database does not answer.")
    if isinstance(error, DataError):  # PostgreSQL takes no NUL, and no number out of range
        logger.warning("The database refused a value: %s", error)
        return errors.InvalidInput("A value is none that the database can hold.", field="")
    return error


def _api_problem(error: exceptions.APIException) -> tuple[str, str]:
    """Return code and detail of a DRF error; simplejwt nests both in a dict."""
    if isinstance(error.detail, Mapping):
        code = str(error.detail.get("code", error.default_code))
        return _code(code), str(error.detail.get("detail", error.default_detail))
    codes = error.get_codes()
    code = codes if isinstance(codes, str) else str(error.default_code)
    return _code(code), str(error.detail)


def _flat(detail: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield field and message of each error in DRF's nested lists and dicts."""
    if isinstance(detail, Mapping):
        for field, inner in detail.items():
            yield from _flat(inner, f"{prefix}.{field}" if prefix else str(field))
    elif isinstance(detail, list):
        for inner in detail:
            yield from _flat(inner, prefix)
    else:
        yield prefix or "non_field_errors", str(detail)
