"""JSON body → the scopes that are to be invalidated."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cache_app.core.generations import EVERYTHING, scope
from plugins import InvalidInput, RecommendationRequest
from serving_app.api.translation import recommendation_request
from serving_app.conf import ServingSettings

FIELDS = ("user_id", "model_name", "version", "tag", "segment", "key", "question", "all")
"""The fields that name a scope."""
MOST = 100
"""Scopes in one body."""

_TEXTS = ("model_name", "tag", "segment", "key")
_QUESTION = ("user_id", "model_name", "features", "context")


def wanted_scopes(
    body: Any, limits: ServingSettings, key_of: Callable[[RecommendationRequest], str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the scopes that a JSON value names, and how it names them.

    Args:
        body: One scope as an object, or ``{"scopes": [...]}``.
        limits: What a question may hold.
        key_of: Returns the key of a question, and may refuse it.

    Raises:
        InvalidInput: It names none; the message names the field and what it must be.
        BadRequest: A question cannot be asked.
        ModelNotReady: The model of a question is not live here, so that its key is not known.
    """
    if not isinstance(body, Mapping):
        raise InvalidInput("Say what to forget, as a JSON object.", field="")
    if "scopes" not in body:
        return [_scope(body, "", limits, key_of)], [dict(body)]
    if len(body) > 1:
        other = next(str(name) for name in body if name != "scopes")
        raise InvalidInput("scopes stands alone: put the others into it.", field=other[:50])
    listed = body["scopes"]
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not 0 < len(listed) <= MOST:
        raise InvalidInput(f"scopes must be a list of 1 to {MOST} objects.", field="scopes")
    scopes = [_scope(each, f"scopes[{i}].", limits, key_of) for i, each in enumerate(listed)]
    return scopes, [dict(each) for each in listed]


def _scope(
    given: Any,
    where: str,
    limits: ServingSettings,
    key_of: Callable[[RecommendationRequest], str],
) -> str:
    """Return the scope that one object names."""
    if not isinstance(given, Mapping):
        raise InvalidInput("A scope must be a JSON object.", field=where.removesuffix("."))
    for name in given:
        if name not in FIELDS:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InvalidInput(
                f"Unknown field {name[:50]!r}.{hint} The fields are {', '.join(FIELDS)}.",
                field=where + name[:50],
            )
    if not given:
        raise InvalidInput(
            f"Say what to forget, by one of {', '.join(FIELDS)}.", field=where.removesuffix(".")
        )
    for alone in ("all", "question"):
        if alone in given and len(given) > 1:
            raise InvalidInput(
                f"{alone} names a scope alone, with nothing else.", field=where + alone
            )
    if "all" in given:
        if given["all"] is not True:
            raise InvalidInput("all must be true, or be left out.", field=where + "all")
        return EVERYTHING
    if "question" in given:
        return scope(key=key_of(_question(given["question"], where, limits)))
    _check_types(given, where)
    try:
        return scope(**given)
    except ValueError as error:
        raise InvalidInput(str(error), field=where + next(iter(given))) from error


def _question(given: Any, where: str, limits: ServingSettings) -> RecommendationRequest:
    field = f"{where}question"
    if not isinstance(given, Mapping):
        raise InvalidInput("question must be an object, as for /predict.", field=field)
    for name in given:
        if name not in _QUESTION:
            raise InvalidInput(
                f"A question is told by {', '.join(_QUESTION)}; {name[:50]!r} makes no other one.",
                field=f"{field}.{name[:50]}",
            )
    try:
        return recommendation_request(given, limits)
    except InvalidInput as error:
        raise InvalidInput(str(error), field=f"{field}.{error.field}") from error


def _check_types(given: Mapping[str, Any], where: str) -> None:
    for name, value in given.items():
        field = where + name
        if name == "version":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
                raise InvalidInput("version must be a whole number above 0.", field=field)
        elif name == "user_id":
            number = isinstance(value, int) and not isinstance(value, bool)
            if not number and (not isinstance(value, str) or not 0 < len(value) <= 256):
                raise InvalidInput(
                    "user_id must be a whole number, or a string of 1 to 256 characters.",
                    field=field,
                )
        elif name in _TEXTS and (not isinstance(value, str) or not value):
            raise InvalidInput(f"{name} must be a string that is not empty.", field=field)
