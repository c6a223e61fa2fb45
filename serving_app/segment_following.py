"""Keeps this process's table of segments, and its shares of L1, as the database says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from django.db import DatabaseError

from cache_app.core.freshness import Freshness
from cache_app.core.partitions import Share
from plugins import PluginError
from serving_app.core.segment_table import SegmentTable, SegmentTerms
from serving_app.segment_facts import user_id
from serving_app.segment_models import Segment, SegmentEvaluation, SegmentMember

__all__ = ["SegmentFollower"]

logger = logging.getLogger(__name__)


class SegmentFollower:
    """Reads what has changed since it looked last. One thread at a time calls it.

    Args:
        table: What it keeps.
        freshness: How long answers are fresh where a segment says nothing else.
        divide: Gives segments, by their names, their shares of L1.
    """

    def __init__(
        self,
        table: SegmentTable,
        freshness: Freshness,
        divide: Callable[[Mapping[str, Share]], None],
    ) -> None:
        self._table = table
        self._freshness = freshness
        self._divide = divide
        self._edited = self._turn = -1
        self._warned = False

    def refresh(self) -> None:
        """Take over what has changed. While the database does not answer, all stays as it is."""
        try:
            self._follow()
        except DatabaseError as error:
            logger.warning("Segments cannot be read: %s", error)

    def _follow(self) -> None:
        state = SegmentEvaluation.objects.filter(pk=1).values_list("edited", "turn").first()
        if state is None:  # there has never been a segment, or the database was emptied
            if self._edited != -1:
                self._table.define({})
                self._give_shares([])
                self._edited = self._turn = -1
            return
        edited, turn = state
        if turn < self._turn or edited < self._edited:  # another database than before
            self._table.define({})
            self._edited = self._turn = -1
        if edited != self._edited:
            rows = {row.pk: row for row in Segment.objects.filter(enabled=True)}
            new = self._table.define({pk: self._terms(row) for pk, row in rows.items()})
            self._give_shares(rows.values())
            self._edited = edited
            if new:
                self._load(segment__in=new)
        if turn != self._turn:
            if turn > self._turn >= 0:
                self._load(turn__gt=self._turn)
            elif turn >= 0:
                self._load(segment__isnull=False)
            self._turn = turn
        if self._table.refused and not self._warned:
            self._warned = True
            logger.warning("Some users are in no segment here: %s are held", len(self._table))

    def _give_shares(self, rows: Iterable[Segment]) -> None:
        shares = {
            row.name: Share(row.share, row.policy, row.policy_options)
            for row in rows
            if row.share is not None
        }
        try:
            self._divide(shares)
        except PluginError as error:
            logger.warning("The shares of L1 stay as they were: %s", error)

    def _load(self, **which: object) -> None:
        rows = SegmentMember.objects.filter(**which).order_by()
        found = rows.values_list("user", "user_is_number", "segment_id").iterator(chunk_size=5000)
        self._table.move((user_id(text, number), segment) for text, number, segment in found)

    def _terms(self, row: Segment) -> SegmentTerms:
        return SegmentTerms(
            row.name,
            None if row.ttl is None else replace(self._freshness, ttl=row.ttl),
            row.alias,
        )
