"""Runs a warm-up that this process has claimed, from its first question, or from where it was."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import DatabaseError, router, transaction
from django.db.models import F
from django.utils import timezone

from plugins import PluginError, RecommendationRequest, RecserveError
from serving_app.core.live_models import LiveModels
from serving_app.core.recommender import Recommender
from serving_app.core.schedule_times import zone_of
from serving_app.core.warmup_batch import Ending, Outcome, warm_batch
from serving_app.core.warmup_counts import WARM_UP
from serving_app.core.warmup_pace import Load, Pace
from serving_app.core.warmup_plan import Planned, Weighted, plan
from serving_app.warmup_activity import ModelActivity
from serving_app.warmup_conf import WarmupSettings, warmup_settings
from serving_app.warmup_models import WarmupQuestion, WarmupRun, WarmupSchedule
from serving_app.warmup_questions import planned_of, row_of
from serving_app.warmup_runs import Claim
from serving_app.warmup_strategies import make_strategy
from serving_app.warmup_watch import Lost, Watch

__all__ = ["Runner"]

logger = logging.getLogger(__name__)

_LOOK = 0.25
"""Seconds between two looks at whether the model is live."""
_TRIES = 3
"""How often a question is tried that the model cannot take."""
_HOPELESS = 5
"""Batches in a row of which the model takes nothing, after which the run has failed."""
_LONGEST_REST = 5.0
_BATCH_SECONDS = 60.0
_ROUNDED = 1 / 32
"""Seconds by which the cache may be wrong about when an answer was made."""
_LOADING = 15.0
"""Seconds that a model may take to be live in a process that has just started."""
_NOTHING = (
    "Nothing to warm: no strategy named a question. Activity of the model is what most go by; "
    "its minimum, or the time that they look back, may be too much for what there is of it."
)


class Runner:
    """Runs warm-ups in this process, one at a time.

    Args:
        recommender: Answers the questions.
        live: The models of this process.
    """

    def __init__(self, recommender: Recommender, live: LiveModels) -> None:
        self._recommender = recommender
        self._live = live

    def planned(
        self, run: WarmupRun, *, going_on: Callable[[], bool] = lambda: True
    ) -> list[Planned]:
        """Return the questions that a run would deal with, the best first; nothing is warmed.

        Raises:
            PluginError: A strategy cannot be made, or failed.
        """
        weighted = [
            Weighted(
                each["strategy"], make_strategy(each["strategy"], each["options"]), each["weight"]
            )
            for each in run.strategies
        ]
        view = ModelActivity(
            model_name=run.model,
            alias=run.alias,
            now=time.time(),
            zone=zone_of(run.time_zone),
            freshness=self.fresh_for,
        )
        return plan(weighted, view, run.budget, going_on=going_on)

    def fresh_for(self, request: RecommendationRequest) -> float | None:
        """Return the seconds that a cached answer is still fresh; 0: it is stale; None: none is."""
        try:
            known = self._recommender.known(request)
        except RecserveError:
            return None
        return None if known is None else max(0.0, known.fresh_for)

    def is_live(self, model: str, alias: str) -> bool:
        """Return whether the model can be asked in this process."""
        lease = self._live.find(model, None, alias)
        if lease is not None:
            lease.release()
        return lease is not None

    def run(self, claim: Claim, shutdown: threading.Event) -> None:
        """Run it to its end; when the process shuts down, leave the rest to another."""
        run = WarmupRun.objects.select_related("schedule").filter(pk=claim.pk).first()
        if run is None:
            return
        watch = Watch(claim, shutdown)
        name = "" if run.schedule is None else run.schedule.name
        try:
            state, message = self._run(run, claim, watch)
            if state is None:
                claim.give_back()
            elif claim.end(state, message):
                WARM_UP.ended(name, state)
                logger.info("Warm-up run %s is %s. %s", run.pk, state, message)
        except Lost:
            logger.warning("Warm-up run %s is another process's by now", run.pk)
        except DatabaseError:  # the next to look takes it over
            logger.exception("Warm-up run %s cannot go on here", run.pk)
        except Exception as error:
            if not isinstance(error, PluginError | ValidationError):
                logger.exception("Warm-up run %s failed", run.pk)
            known = isinstance(error, RecserveError)
            if claim.end(WarmupRun.State.FAILED, str(error) if known else repr(error)):
                WARM_UP.ended(name, WarmupRun.State.FAILED)
        finally:
            watch.close()

    def _run(
        self, run: WarmupRun, claim: Claim, watch: Watch
    ) -> tuple[WarmupRun.State | None, str]:
        """Return how it ended, None for not at all, and what there is to say."""
        until = time.monotonic() + _LOADING
        while not self.is_live(run.model, run.alias):
            if time.monotonic() > until:
                label = f"{run.model}@{run.alias}" if run.alias else run.model
                return WarmupRun.State.FAILED, f"{label!r} is not live in {claim.runner}."
            if not watch.pause(_LOOK):
                return watch.ending()
        if not run.planned:
            self._choose(run, claim, watch)
            if watch.stopped():
                return watch.ending()
            if not run.candidates:
                return WarmupRun.State.DONE, _NOTHING
        return _Warming(self._recommender, self._load_of(run), run, claim, watch).all()

    def _choose(self, run: WarmupRun, claim: Claim, watch: Watch) -> None:
        """Write down the questions; whoever takes over goes on with the same."""
        chosen = self.planned(run, going_on=lambda: not watch.stopped())
        if watch.stopped():
            return
        rows = [row for row in (row_of(run, i, each) for i, each in enumerate(chosen)) if row]
        with transaction.atomic(using=router.db_for_write(WarmupQuestion)):
            now = timezone.now()
            if not claim.change(planned=True, candidates=len(rows), seen=now, counted=now):
                raise Lost
            WarmupQuestion.objects.bulk_create(rows, batch_size=500)
        run.planned, run.candidates = True, len(rows)

    def _load_of(self, run: WarmupRun) -> Callable[[], Load | None]:
        """Return what looks at the model's queue."""

        def load() -> Load | None:
            lease = self._live.find(run.model, None, run.alias)
            if lease is None:
                return None
            try:
                stats = lease.version.stats()
            finally:
                lease.release()
            return Load(stats.queued, stats.running)

        return load


class _Warming:
    """The batches of one run."""

    def __init__(
        self,
        recommender: Recommender,
        load: Callable[[], Load | None],
        run: WarmupRun,
        claim: Claim,
        watch: Watch,
    ) -> None:
        self._settings: WarmupSettings = warmup_settings()
        self._recommender = recommender
        self._run = run
        self._name = "" if run.schedule is None else run.schedule.name
        self._claim = claim
        self._watch = watch
        self._resumed_from = claim.resumed_from
        self._tries: Counter[int] = Counter()
        self._pace = Pace(rate=run.rate, share=self._settings.share, load=load, pause=watch.pause)

    def all(self) -> tuple[WarmupRun.State | None, str]:
        """Deal with every question; return how it ended, and what there is to say."""
        rows = WarmupQuestion.objects.filter(run=self._run, state=WarmupQuestion.State.WAITING)
        until = time.monotonic() + self._settings.run_seconds
        hopeless = 0
        while batch := list(rows.order_by("position")[: self._run.batch_size]):
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

    def _record(self, batch: Sequence[WarmupQuestion], outcomes: Sequence[Outcome]) -> None:
        """Write down what became of a batch: the questions and the counts, or neither.

        Raises:
            Lost: Another process runs it now.
        """
        now = timezone.now()
        settled: list[WarmupQuestion] = []
        for row, outcome in zip(batch, outcomes, strict=True):
            if self._settle(row, outcome, now):
                settled.append(row)
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
            WarmupQuestion.objects.bulk_update(settled, _SETTLED)
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
