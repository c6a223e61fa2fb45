"""Answers of the Open Inference Protocol, and its errors: ``{"error": "…"}``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.core.exceptions import ValidationError
from django.db import DatabaseError

from plugins import InvalidInput, ModelNotReady, RecserveError, TokenNotValid, Unavailable
from serving_app.api import problems
from serving_app.core.access import CHALLENGE
from serving_app.core.request_record import current

__all__ = ["JSON", "STATUS", "Answer", "Refused", "answer_of", "as_json"]

logger = logging.getLogger(__name__)

JSON = "application/json"
"""Without a charset: KServe's client compares the whole text."""
STATUS: Mapping[type[RecserveError], int] = {**problems.STATUS, InvalidInput: 400}
"""HTTP status by error. As elsewhere in recserve, but a wrong value is the protocol's 400."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request that is refused by the protocol's own rules.

    Args:
        status: HTTP status.
        text: The reason.
        headers: Sent along.
    """

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    """Return an answer of JSON."""
    return Answer(status, msgspec.json.encode(value), {"Content-Type": JSON, **headers})


def answer_of(error: Exception) -> Answer:
    """Return the answer that says an error; what nobody foresaw is logged, and 500."""
    if isinstance(error, Refused):
        return _refusal(error.status, str(error), error.headers, f"http-{error.status}")
    if isinstance(error, RecserveError):
        problem = problems.problem_of(error)
        headers = {}
        retry_after = problems.retry_after_of(error)
        if retry_after is not None:
            headers["Retry-After"] = str(retry_after)
        if isinstance(error, TokenNotValid):
            headers["WWW-Authenticate"] = CHALLENGE
        return _refusal(STATUS[type(error)], str(error), headers, problem["code"])
    if isinstance(error, ValidationError):
        return _refusal(400, " ".join(error.messages), {}, "invalid")
    if isinstance(error, DatabaseError):
        logger.warning("The database does not answer", exc_info=error)
        unavailable: Unavailable = ModelNotReady("The registry does not answer now.")
        return answer_of(unavailable)
    logger.error("Unexpected error in the Open Inference Protocol", exc_info=error)
    text = "Something went wrong on our side; it has been logged."
    return _refusal(500, text, {}, "internal")


def _refusal(status: int, text: str, headers: Mapping[str, str], code: str) -> Answer:
    record = current()
    if record is not None:
        record.code = code
    # A name may hold anything that a URL can, such as half of a pair of surrogates.
    text = text.encode("utf-8", "backslashreplace").decode()
    return as_json({"error": text}, status, **headers)
