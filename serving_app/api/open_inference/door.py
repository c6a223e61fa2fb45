"""What is asked at ``/v2``, and who answers it: one function, for every server in front of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from serving_app.api.open_inference import infer, metadata, repository, statistics
from serving_app.api.open_inference.answers import Answer, Refused, answer_of, as_json
from serving_app.api.open_inference.asked import Asked
from serving_app.api.open_inference.inference import Inference
from serving_app.core.access import Access

__all__ = ["answer", "begin", "begin_at_once", "finish", "route_of"]

Begun = Answer | Inference
_Answering = Callable[[Asked], Begun]
_Methods = Mapping[str, _Answering]
_MODEL = r"/v2/models/(?P<named>[^/]+)(?:/versions/(?P<number>[0-9]+))?"


def _unsupported(what: str) -> _Answering:
    def refuse(asked: Asked) -> Answer:
        asked.permit("predict")
        raise Refused(501, f"{what} is not supported")

    return refuse


def _none(asked: Asked) -> Answer:
    asked.permit("predict")
    return as_json([])


def _nothing(asked: Asked) -> Answer:
    asked.permit("predict")
    return Answer()


_UNSUPPORTED = {
    r"/v2/trace/setting": "trace",
    rf"{_MODEL}/trace/setting": "trace",
    r"/v2/logging": "logging",
    rf"{_MODEL}/generate(_stream)?": "generate",
    r"/v2/(system|cuda)sharedmemory/region/[^/]+/register": "shared memory",
    r"/v2/repository/[^/]+/(index|models/[^/]+/(load|unload))": "'repository_name' specification",
}
_PATTERNS: Mapping[str, _Methods] = {
    # The hottest first; `models/stats` before `models/{name}`.
    rf"{_MODEL}/infer": {"POST": infer.infer},
    r"/v2": {"GET": metadata.server},
    r"/v2/health/live": {"GET": metadata.live},
    r"/v2/health/ready": {"GET": metadata.ready},
    r"/v2/models": {"GET": metadata.models},
    r"/v2/models/stats": {"GET": statistics.statistics},
    _MODEL: {"GET": metadata.model},
    rf"{_MODEL}/ready": {"GET": metadata.model_ready},
    rf"{_MODEL}/config": {"GET": metadata.config},
    rf"{_MODEL}/stats": {"GET": statistics.model_statistics},
    r"/v2/repository/index": {"POST": repository.index},
    r"/v2/repository/models/(?P<named>[^/]+)/load": {"POST": repository.load},
    r"/v2/repository/models/(?P<named>[^/]+)/unload": {"POST": repository.unload},
    r"/v2/(system|cuda)sharedmemory(/region/[^/]+)?/status": {"GET": _none},
    r"/v2/(system|cuda)sharedmemory(/region/[^/]+)?/unregister": {"POST": _nothing},
    **{
        path: dict.fromkeys(("GET", "POST"), _unsupported(what))
        for path, what in _UNSUPPORTED.items()
    },
}
_ROUTES = tuple((re.compile(pattern), methods) for pattern, methods in _PATTERNS.items())
_VERSION = r"(?:/versions/(?P<number>[0-9]+))?"


def _label(pattern: str, version: str) -> str:
    """Return a pattern as one reads it: a metric has a label of as many values as there are."""
    read = pattern.replace(_VERSION, version).replace(r"(?P<named>[^/]+)", "<model>")
    return read.replace(r"[^/]+", "<name>").removeprefix("/")


_LABELS = tuple(
    (compiled, _label(pattern, ""), _label(pattern, "/versions/<version>"))
    for pattern, (compiled, _) in zip(_PATTERNS, _ROUTES, strict=True)
)


def route_of(path: str) -> str:
    """Return the pattern that a path is of, such as ``v2/models/<model>/infer``; empty: of none."""
    for compiled, plain, versioned in _LABELS:
        found = compiled.fullmatch(path.rstrip("/"))
        if found is not None:
            return versioned if found.groupdict().get("number") else plain
    return ""


def answer(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    who: Callable[[], Access | None],
) -> Answer:
    """Return the answer to a request. Any thread calls it; it may wait for a model.

    Args:
        method: Such as ``POST``.
        path: Percent-decoded, from ``/v2`` on.
        headers: By their names in lower case.
        body: As it was sent.
        who: Returns what the caller may do, or None if it sent no token; raises `TokenNotValid`.
            It is asked only where that matters.
    """
    begun = begin(method, path, headers, body, who)
    if isinstance(begun, Answer):
        return begun
    try:
        return finish(begun)
    finally:
        begun.end()


def begin(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    who: Callable[[], Access | None],
) -> Begun:
    """Do what `answer` does without waiting for a model: it is given its tensors.

    Whoever gets an inference calls `finish` once it has ended, and its `end` whatever happens.
    """
    try:
        answering, asked = _found(method, path.rstrip("/"), headers, body, who)
        return answering(asked)
    except Exception as error:  # noqa: BLE001  (every error has the protocol's form)
        return answer_of(error)


def begin_at_once(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    who: Callable[[], Access | None],
) -> Begun | Callable[[], Begun]:
    """Do what `begin` does as far as no database is asked: for inference on an event loop.

    What is returned else may ask it: call it on a thread, and it does the rest.

    Args:
        method: As for `answer`, and so is the rest.
        path: Of inference.
        headers: …
        body: …
        who: It must not ask a database either.
    """
    try:
        _, asked = _found(method, path.rstrip("/"), headers, body, who)
        begun = infer.infer_at_once(asked)
        return partial(_rest, asked) if begun is None else begun
    except Exception as error:  # noqa: BLE001  (every error has the protocol's form)
        return answer_of(error)


def _rest(asked: Asked) -> Begun:
    try:
        return infer.infer(asked)
    except Exception as error:  # noqa: BLE001  (every error has the protocol's form)
        return answer_of(error)


def finish(inference: Inference) -> Answer:
    """Return the answer to an inference; wait for it, if need be."""
    try:
        return inference.answer()
    except Exception as error:  # noqa: BLE001  (every error has the protocol's form)
        return answer_of(error)


def _found(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    who: Callable[[], Access | None],
) -> tuple[_Answering, Asked]:
    """Return who answers a request, and the request.

    Raises:
        Refused: There is nothing at the path, or not by this method.
    """
    for pattern, methods in _ROUTES:
        found = pattern.fullmatch(path)
        if found is None:
            continue
        answering = methods.get("GET" if method == "HEAD" else method)
        if answering is None:
            raise Refused(405, "Method Not Allowed", Allow=", ".join(methods))
        path_parts = {name: value or "" for name, value in found.groupdict().items()}
        return answering, Asked(headers, body, who, **path_parts)
    raise Refused(404, "Not Found")
