"""What both doors of ``/predict`` do between the body and the recommender, and after it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plugins import BadRequest, InvalidInput, Recommendation, RecommendationRequest, RecserveError
from serving_app import payload_log, wiring
from serving_app.api.problems import problem_of
from serving_app.api.translation import (
    answer,
    explanation,
    recommendation_request,
    server_timing,
    wants_titles,
)
from serving_app.conf import ServingSettings
from serving_app.core.access import Access
from serving_app.core.request_record import current
from serving_app.request_log import is_logged, user_hash

__all__ = ["Batch", "Question", "batch", "note_answer", "note_question", "question", "timing_of"]


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and in what form its answer is wanted."""

    request: RecommendationRequest
    titles: bool

    def answer(self, recommendation: Recommendation, started: float) -> dict[str, Any]:
        """Return the JSON value of the answer.

        Args:
            recommendation: What was recommended; the payload log considers it.
            started: When the request came, by `time.perf_counter`.
        """
        seconds = time.perf_counter() - started
        payload_log.consider(self.request, recommendation, seconds)
        body = answer(recommendation, latency=seconds)
        explained = explanation(recommendation)
        if explained is not None:
            body["explain"] = explained
        if self.titles:
            body["titles"] = wiring.titles(
                recommendation.model_name, recommendation.items, recommendation.model_version
            )
        return body


def question(body: Any, access: Access, limits: ServingSettings) -> Question:
    """Return what a JSON value asks.

    Raises:
        InvalidInput: It asks nothing, or nothing that can be answered.
        ModelNotPermitted: The caller may not ask that model.
        ExplanationNotPermitted: The caller may not ask for explanations.
    """
    asked = Question(recommendation_request(body, limits), wants_titles(body))
    access.check_model(asked.request.model_name)
    if asked.request.explain:
        access.check_explain()
    return asked


def timing_of(body: dict[str, Any]) -> dict[str, str]:
    """Return the ``Server-Timing`` header of an answer that explains itself; else nothing."""
    explained = body.get("explain")
    if explained is None:
        return {}
    return {"Server-Timing": server_timing(explained, body["latency_ms"])}


def note_question(asked: Question) -> None:
    """Write into the record of the request under way what it asks."""
    record = current()
    if record is not None:
        record.model = asked.request.model_name
        if is_logged():  # the hash costs as much as the look-up in the cache
            record.user = user_hash(asked.request.user_id)


def note_answer(recommendation: Recommendation) -> None:
    """Write into the record of the request under way what answered."""
    record = current()
    if record is not None:
        record.version, record.source = recommendation.model_version, recommendation.source


class Batch:
    """The requests of one call, some of which may be refused on their own.

    Args:
        bodies: Their JSON values.
        id_: The id that the answer carries.
        access: What the caller may do.
        limits: The settings.
    """

    def __init__(
        self, bodies: Sequence[Any], id_: str, access: Access, limits: ServingSettings
    ) -> None:
        self._id = id_
        self._slots: list[dict[str, Any] | None] = []
        self._questions: list[Question] = []
        for body in bodies:
            try:
                asked = question(body, access, limits)
            except BadRequest as error:
                self._slots.append(problem_of(error))
            else:
                self._questions.append(asked)
                self._slots.append(None)

    @property
    def requests(self) -> list[RecommendationRequest]:
        """The requests that are to be answered, in order."""
        return [each.request for each in self._questions]

    def answer(
        self, results: Sequence[Recommendation | RecserveError], started: float
    ) -> dict[str, Any]:
        """Return the JSON value of the answer.

        Args:
            results: What came of `requests`.
            started: When the call came, by `time.perf_counter`.
        """
        answered = iter(zip(self._questions, results, strict=True))
        slots = [_slot(*next(answered), started) if each is None else each for each in self._slots]
        return {
            "batch_id": self._id,
            "results": slots,
            "batch_size": len(slots),
            "total_latency_ms": round((time.perf_counter() - started) * 1000, 3),
        }


def _slot(
    asked: Question, result: Recommendation | RecserveError, started: float
) -> dict[str, Any]:
    if isinstance(result, RecserveError):
        return problem_of(result)
    return asked.answer(result, started)


def batch(body: Any, limits: ServingSettings) -> tuple[list[Any], str]:
    """Return the requests and the id of a batch.

    Raises:
        InvalidInput: The body is no batch, or too large a one.
    """
    if not isinstance(body, dict) or not isinstance(body.get("requests"), list):
        raise InvalidInput("requests must be a list of requests.", field="requests")
    unknown = sorted(body.keys() - {"requests", "batch_id"})
    if unknown:
        raise InvalidInput(
            f"Unknown field {unknown[0][:50]!r}. The fields are requests and batch_id.",
            field=unknown[0][:50],
        )
    most = limits.max_requests
    if not 1 <= len(body["requests"]) <= most:
        raise InvalidInput(
            f"requests must hold 1 to {most} requests; it holds {len(body['requests'])}.",
            field="requests",
        )
    batch_id = body.get("batch_id")
    if batch_id is not None and (not isinstance(batch_id, str) or len(batch_id) > 256):
        raise InvalidInput("batch_id must be a string of at most 256 characters.", field="batch_id")
    return body["requests"], batch_id or str(uuid.uuid4())
