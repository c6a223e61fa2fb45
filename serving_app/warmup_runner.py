"""Runs a warm-up that this process has claimed, from its first question, or from where it was."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from django.core.exceptions import ValidationError
from django.db import DatabaseError, router, transaction
from django.utils import timezone

from plugins import PluginError, RecommendationRequest, RecserveError, Unavailable
from plugins.apps import get_registry
from serving_app.core.live_models import LiveModels
from serving_app.core.recommender import Recommender
from serving_app.core.schedule_times import zone_of
from serving_app.core.warmup_counts import WARM_UP
from serving_app.core.warmup_pace import Load
from serving_app.core.warmup_plan import Interrupted, Planned, Weighted, plan
from serving_app.warmup_activity import ModelActivity
from serving_app.warmup_batches import RunBatches
from serving_app.warmup_models import WarmupQuestion, WarmupRun
from serving_app.warmup_questions import row_of
from serving_app.warmup_runs import Claim
from serving_app.warmup_strategies import make_strategy
from serving_app.warmup_watch import Lost, Watch

__all__ = ["Runner"]

logger = logging.getLogger(__name__)

_LOOK = 0.25
"""Seconds between two looks at whether the model is live."""
_PATIENCE = 20.0
"""Seconds that choosing may take while somebody waits for it."""
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

    def dry_run(self, run: WarmupRun) -> Iterator[tuple[Planned, bool]]:
        """Yield what a run would deal with, the best first, and whether it would be skipped.

        Somebody waits for it, so choosing may not take long.

        Raises:
            PluginError: A strategy cannot be made, or failed.
            Unavailable: It took too long.
        """
        until = time.monotonic() + _PATIENCE

        def pause(seconds: float) -> bool:
            if time.monotonic() > until:
                raise Unavailable(
                    f"Choosing took longer than {_PATIENCE:g} s. A run takes the time that it "
                    "needs; for a dry run, let the strategies look back less far."
                )
            time.sleep(min(seconds, 0.01))
            return True

        for each in self._planned(run, pause):
            fresh = self.fresh_for(each.request)
            yield each, fresh is not None and fresh > each.renew_before

    def _planned(self, run: WarmupRun, pause: Callable[[float], bool]) -> list[Planned]:
        """Return the questions of a run, the best first.

        Raises:
            PluginError: A strategy cannot be made, or failed.
            Interrupted: It shall not go on, as ``pause`` said.
        """

        def rest(seconds: float) -> None:
            if not pause(seconds):
                raise Interrupted

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
            rest=rest,
        )
        return plan(weighted, view, run.budget, going_on=lambda: pause(0.0), failed=_count_failure)

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
            if not run.planned:
                return watch.ending()
            if not run.candidates:
                return WarmupRun.State.DONE, _NOTHING
        return RunBatches(self._recommender, self._load_of(run), run, claim, watch).all()

    def _choose(self, run: WarmupRun, claim: Claim, watch: Watch) -> None:
        """Write down the questions; whoever takes over goes on with the same."""
        try:
            chosen = self._planned(run, watch.pause)
        except Interrupted:
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


def _count_failure(strategy: str, error: Exception) -> None:
    """Count what a strategy did wrong; the run has failed, and the next one asks it again."""
    registry = get_registry()
    part = registry.part("warmup_strategies", strategy)
    registry.failures.note(*part, error, switches_off=False)
