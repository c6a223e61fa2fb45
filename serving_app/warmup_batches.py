"""The batches of a warm-up run: each is asked, settled and counted, until nothing is left."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from django.db import connections, router, transaction
from django.db.models import F
from django.utils import timezone

from plugins import RecserveError
from serving_app.core.recommender import Recommender
from serving_app.core.warmup_batch import Ending, Outcome, warm_batch
from serving_app.core.warmup_counts import WARM_UP
from serving_app.core.warmup_pace import Load, Pace
from serving_app.warmup_conf import warmup_settings
from serving_app.warmup_models import WarmupQuestion, WarmupRun, WarmupSchedule
from serving_app.warmup_questions import planned_of
from serving_app.warmup_runs import Claim
from serving_app.warmup_watch import Lost, Watch

__all__ = ["RunBatches"]

_TRIES = 3
"""How often a question is tried that the model cannot take."""
_AHEAD = 256
"""Questions that are read at once."""
_HOPELESS = 5
"""Batches in a row of which the model takes nothing, after which the run has failed."""
_ROUNDED = 1 / 32
"""Seconds by which the cache may be wrong about when an answer was made."""
_LONGEST_REST = 5.0
_BATCH_SECONDS = 60.0


class RunBatches:
    """The batches of one run."""

    def __init__(
        self,
        recommender: Recommender,
        load: Callable[[], Load | None],
        run: WarmupRun,
        claim: Claim,
        watch: Watch,
    ) -> None:
        self._settings = warmup_settings()
        self._recommender = recommender
        self._run = run
        self._name = "" if run.schedule is None else run.schedule.name
        self._claim = claim
        self._watch = watch
        self._resumed_from = claim.resumed_from
        self._tries: Counter[int] = Counter()
        self._ahead: deque[WarmupQuestion] = deque()
        self._read = -1
        self._pace = Pace(rate=run.rate, share=self._settings.share, load=load, pause=watch.pause)

    def all(self) -> tuple[WarmupRun.State | None, str]:
        """Deal with every question; return how it ended, and what there is to say."""
        until = time.monotonic() + self._settings.run_seconds
        hopeless = 0
        while batch := self._next():
            if time.monotonic() > until:
                return WarmupRun.State.STOPPED, (
                    f"It took longer than {self._settings.run_seconds:g} s "
                    "(RECSERVE['WARM_UP']['RUN_SECONDS'])."
                )
            if not self._pace.wait():
                return self._watch.ending()
            started = time.monotonic()
            outcomes = warm_batch(
                [planned_of(self._run.model, row) for row in batch],
                lambda each: self._recommender.warm(each.request, renew_before=each.renew_before),
                stopped=self._watch.stopped,
                timeout=_BATCH_SECONDS,
            )
            asked = sum(each.ending is not Ending.FRESH for each in outcomes)
            self._pace.went(asked, time.monotonic() - started)
            self._record(batch, outcomes)
            if self._watch.stopped():
                return self._watch.ending()
            refused = [each for each in outcomes if each.ending is Ending.REFUSED]
            hopeless = hopeless + 1 if len(refused) == len(batch) else 0
            if hopeless >= _HOPELESS:
                return WarmupRun.State.FAILED, f"The model takes nothing: {refused[0].problem}"
            if refused and not self._watch.pause(
                min(_LONGEST_REST, max(each.retry_after for each in refused))
            ):
                return self._watch.ending()
        return WarmupRun.State.DONE, ""

    def _next(self) -> list[WarmupQuestion]:
        """Return the next batch; what the model could not take comes once more, last of all."""
        size = self._run.batch_size
        if len(self._ahead) < size:
            rows = WarmupQuestion.objects.filter(
                run=self._run, state=WarmupQuestion.State.WAITING, position__gt=self._read
            )
            self._ahead.extend(rows.order_by("position")[: max(size, _AHEAD)])
            if self._ahead:
                self._read = max(self._read, self._ahead[-1].position)
        return [self._ahead.popleft() for _ in range(min(size, len(self._ahead)))]

    def _record(self, batch: Sequence[WarmupQuestion], outcomes: Sequence[Outcome]) -> None:
        """Write down what became of a batch: the questions and the counts, or neither.

        Raises:
            Lost: Another process runs it now.
        """
        now = timezone.now()
        settled: list[WarmupQuestion] = []
        for row, outcome in zip(batch, outcomes, strict=True):
            time.sleep(0)  # whoever waits for the interpreter goes first
            (settled if self._settle(row, outcome, now) else self._ahead).append(row)
        self._resumed_from = None  # the batch that may have been under way is dealt with
        counts = Counter(row.state for row in settled)
        seconds = sum(row.model_seconds for row in settled)
        with transaction.atomic(using=router.db_for_write(WarmupQuestion)):
            if not self._claim.change(
                warmed=F("warmed") + counts["warmed"],
                fresh=F("fresh") + counts["fresh"],
                refused=F("refused") + counts["refused"],
                errors=F("errors") + counts["error"],
                model_seconds=F("model_seconds") + seconds,
                seen=now,
                counted=now,
            ):
                raise Lost
            _write(settled)
            if self._run.schedule_id is not None and counts["warmed"]:
                WarmupSchedule.objects.filter(pk=self._run.schedule_id).update(
                    warmed=F("warmed") + counts["warmed"],
                    model_seconds=F("model_seconds") + seconds,
                )
        for state, n in counts.items():
            WARM_UP.dealt_with(self._name, state, n)
        WARM_UP.spent(self._name, seconds)

    def _settle(self, row: WarmupQuestion, outcome: Outcome, now: datetime) -> bool:
        """Write an outcome into a question; return whether it is dealt with."""
        ending = outcome.ending
        if ending is Ending.LEFT:
            if self._watch.stopped():
                return False
            ending = Ending.REFUSED
        if ending is Ending.REFUSED:
            self._tries[row.pk] += 1
            if self._tries[row.pk] < _TRIES:
                return False
        if ending is Ending.FRESH and self._was_under_way(outcome, now):
            ending = Ending.WARMED
        row.state = WarmupQuestion.State(ending.value)
        row.problem = outcome.problem.replace("\0", "")[:500]
        row.model_seconds = outcome.seconds
        if ending is Ending.WARMED:
            request = planned_of(self._run.model, row).request
            row.warmed_at = row.fresh_until = now
            try:
                known = self._recommender.known(request)
            except RecserveError:
                known = None
            if known is not None:
                row.warmed_at = datetime.fromtimestamp(known.created, now.tzinfo)
                row.fresh_until = now + timedelta(seconds=max(0.0, known.fresh_for))
        return True

    def _was_under_way(self, outcome: Outcome, now: datetime) -> bool:
        """Return whether a fresh answer is one that a runner who died had not counted yet."""
        if self._resumed_from is None:
            return False
        return outcome.age <= (now - self._resumed_from).total_seconds() + _ROUNDED


_SETTLED = ("state", "problem", "model_seconds", "warmed_at", "fresh_until")


def _write(settled: Sequence[WarmupQuestion]) -> None:
    """Write settled questions into the database: one prepared UPDATE, many rows.

    Django's `bulk_update` costs the interpreter, which requests need meanwhile, ten times as much.
    """
    connection = connections[router.db_for_write(WarmupQuestion)]
    name, meta = connection.ops.quote_name, WarmupQuestion._meta  # noqa: SLF001  (public)
    fields = [field for field in meta.concrete_fields if field.name in _SETTLED]
    columns = ", ".join(f"{name(str(field.column))} = %s" for field in fields)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {name(meta.db_table)} SET {columns} WHERE id = %s",  # noqa: S608  (own names)
            [
                [
                    *(f.get_db_prep_save(getattr(row, f.attname), connection) for f in fields),
                    row.pk,
                ]
                for row in settled
            ],
        )
