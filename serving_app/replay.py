"""Runs logged requests against a version, and compares its answers with those given then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from plugins import InvalidInput, Priority, RecserveError
from serving_app.core.live_version import LiveVersion
from serving_app.core.ranking import Ranking
from serving_app.payload_models import LoggedRequest

__all__ = ["Answer", "Summary", "answers"]

Answer = tuple[Sequence[str], Sequence[float]]
"""Items and their scores, best first."""


def answers(
    rows: Sequence[LoggedRequest], version: LiveVersion
) -> Iterator[Answer | RecserveError]:
    """Yield the version's answer to each request, or why it has none; all run in batches."""
    pending: list[tuple[LoggedRequest, Future[Ranking] | RecserveError]] = []
    for row in rows:
        try:
            pending.append((row, _submit(row.body, version)))
        except RecserveError as error:
            pending.append((row, error))
    for row, future in pending:
        if isinstance(future, RecserveError):
            yield future
            continue
        try:
            ranking = future.result(version.record.timeout)
        except RecserveError as error:
            yield error
            continue
        yield ranking.cut(row.body["k"], set(row.body["exclude"])) or ((), ())


def _submit(body: dict[str, Any], version: LiveVersion) -> Future[Ranking]:
    try:
        features, depth = body["features"], body["k"] + len(body["exclude"])
        row = (
            version.features_of(body["user_id"], body["context"])
            if features is None
            else version.layout.row(features)
        )
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"The logged request is not whole: {error}.", field="") from error
    return version.submit(row, depth, priority=Priority.LIVE)


@dataclass(slots=True)
class Summary:
    """How the answers of one version compare with others. Means are over compared requests."""

    compared: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Requests that the version could not answer, by error."""
    identical: int = 0
    """Same items in the same order."""
    same_first: int = 0
    overlap: float = 0.0
    """Sum of the part of each answer's items that the other has, too."""
    largest_difference: float = 0.0
    """Of the scores of an item that both have."""
    differences: float = 0.0
    common: int = 0

    def add(self, before: Answer, after: Answer | RecserveError) -> None:
        """Compare one pair of answers."""
        if isinstance(after, RecserveError):
            self.errors[type(after).__name__] += 1
            return
        items, scores = before
        self.compared += 1
        self.identical += list(items) == list(after[0])
        self.same_first += list(items[:1]) == list(after[0][:1])
        theirs = dict(zip(after[0], after[1], strict=True))
        longest = max(len(items), len(theirs))
        shared = [
            (score, theirs[item])
            for item, score in zip(items, scores, strict=True)
            if item in theirs
        ]
        self.overlap += len(shared) / longest if longest else 1.0
        for one, two in shared:
            self.common += 1
            self.differences += abs(one - two)
            self.largest_difference = max(self.largest_difference, abs(one - two))

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON values; parts and means are None without any request."""
        n = self.compared
        return {
            "compared": n,
            "errors": dict(self.errors),
            "identical": self.identical / n if n else None,
            "same_first": self.same_first / n if n else None,
            "overlap": self.overlap / n if n else None,
            "mean_score_difference": self.differences / self.common if self.common else None,
            "largest_score_difference": self.largest_difference if self.common else None,
        }
