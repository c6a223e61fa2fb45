"""Warm-up runs as rows: asked for, claimed by one process, kept alive, stopped, ended.

Whoever runs one has written its name into the row by an UPDATE that only succeeds if nobody else
has. Every change after that asks for the name again: a runner that was taken for dead, and was not,
finds its name gone, and changes nothing more.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, router, transaction
from django.db.models import F, Q
from django.utils import timezone

from plugins import PluginError, UnknownPlugin
from serving_app.core.live_models import PRODUCTION
from serving_app.models import Alias, ServedModel
from serving_app.reconciler import process_name
from serving_app.warmup_conf import warmup_settings
from serving_app.warmup_models import WarmupQuestion, WarmupRun, WarmupSchedule
from serving_app.warmup_strategies import make_strategy

__all__ = [
    "AlreadyRunning",
    "Claim",
    "check_live",
    "checked_strategies",
    "claim",
    "due_schedules",
    "prune",
    "request_run",
    "run_of",
    "start_due",
    "stop",
]

logger = logging.getLogger(__name__)

_LATE = timedelta(minutes=5)
"""How long after its expiry a question may still be found to have been asked in time."""
_SHOWN = timedelta(hours=1)
"""How long after a run's end its questions can be looked at."""


class AlreadyRunning(ValidationError):
    """A run of the schedule waits or runs already."""

    def __init__(self, schedule: WarmupSchedule) -> None:
        super().__init__(f"A run of {schedule.name!r} is not over yet.", code="already_running")


# --- Asking for a run -------------------------------------------------------------------------


def check_live(model: str, alias: str) -> None:
    """Return if something answers for the alias of the model.

    Raises:
        ValidationError: The model is unknown, or no version of it has the alias.
    """
    if not ServedModel.objects.filter(name=model).exists():
        raise ValidationError({"model": f"There is no model {model!r}."})
    rows = Alias.objects.filter(model__name=model)
    if alias.isdecimal():
        found = rows.filter(version__number=int(alias)).exists()
    else:
        found = rows.filter(name=alias or PRODUCTION).exists()
    if not found:
        field, label = ("alias", f"{model}@{alias}") if alias else ("model", model)
        raise ValidationError({field: f"{label!r} has no live version: there is nothing to warm."})


def checked_strategies(strategies: Sequence[Mapping[str, Any]]) -> None:
    """Return if there are strategies, each known, with options that it takes.

    Raises:
        ValidationError: There are none, or one is wrong; the message says which, and what.
    """
    if not strategies:
        raise ValidationError({"strategies": "Give at least one strategy."})
    for each in strategies:
        try:
            make_strategy(each["strategy"], each["options"])
        except UnknownPlugin as error:
            raise ValidationError({"strategy": str(error)}) from error
        except PluginError as error:
            raise ValidationError({"options": str(error)}) from error


def run_of(schedule: WarmupSchedule) -> WarmupRun:
    """Return what a run of a schedule would be, checked and not saved.

    Raises:
        ValidationError: It has no strategy, or one that is not there any more, or its model is not
            live.
    """
    strategies = schedule.strategies_as_json()
    checked_strategies(strategies)
    check_live(schedule.model.name, schedule.alias)
    return WarmupRun(
        schedule=schedule,
        model=schedule.model.name,
        alias=schedule.alias,
        strategies=strategies,
        time_zone=schedule.time_zone,
        budget=schedule.budget,
        batch_size=schedule.batch_size,
        rate=schedule.rate,
    )


def request_run(run: WarmupRun, *, by: User | None = None) -> WarmupRun:
    """Save a run, so that a process takes it.

    Raises:
        AlreadyRunning: One of its schedule waits or runs already.
    """
    run.by = by
    try:
        with transaction.atomic(using=router.db_for_write(WarmupRun)):
            run.save(force_insert=True)
    except IntegrityError as error:
        if run.schedule is None:
            raise
        raise AlreadyRunning(run.schedule) from error
    return run


def due_schedules(now: datetime) -> list[WarmupSchedule]:
    """Return the schedules that are due, the one that waits longest first."""
    rows = WarmupSchedule.objects.filter(enabled=True, next_due__lte=now)
    return list(rows.select_related("model").order_by("next_due")[:100])


def start_due(schedule: WarmupSchedule, now: datetime) -> WarmupRun | None:
    """Ask for the run of a schedule that is due, unless another process has just done so.

    What was missed meanwhile is made up for by this one run. A schedule that cannot run leaves a
    failed run that says why.
    """
    following = wrong = None
    try:
        following = schedule.due_after(now, last=schedule.next_due)
    except ValueError as error:  # its zone is gone: others must not wait for it
        wrong = str(error)
    rows = WarmupSchedule.objects.filter(pk=schedule.pk, enabled=True, next_due=schedule.next_due)
    if not rows.update(next_due=following):
        return None
    if wrong is not None:
        _note_failure(schedule, f"{wrong} It is due no more.", now)
        return None
    try:
        run = run_of(schedule)
    except ValidationError as error:
        _note_failure(schedule, " ".join(error.messages), now)
        return None
    run.by_clock = True
    try:
        return request_run(run)
    except AlreadyRunning:
        logger.info("Warm-up %s is due, but its last run is not over yet", schedule)
        return None


def _note_failure(schedule: WarmupSchedule, message: str, now: datetime) -> None:
    logger.warning("Warm-up %s cannot run: %s", schedule, message)
    WarmupRun.objects.create(
        schedule=schedule,
        model=schedule.model.name,
        alias=schedule.alias,
        strategies=schedule.strategies_as_json(),
        time_zone=schedule.time_zone,
        budget=schedule.budget,
        batch_size=schedule.batch_size,
        rate=schedule.rate,
        by_clock=True,
        state=WarmupRun.State.FAILED,
        started=now,
        ended=now,
        message=message,
    )


def stop(run: WarmupRun) -> bool:
    """Let a run end soon; return whether it had not ended yet.

    One that nobody has begun ends here.
    """
    rows = WarmupRun.objects.filter(pk=run.pk)
    waiting = rows.filter(state=WarmupRun.State.WAITING)
    if waiting.update(
        state=WarmupRun.State.STOPPED, stop_requested=True, ended=timezone.now(), message="Stopped."
    ):
        return True
    return bool(rows.filter(state=WarmupRun.State.RUNNING).update(stop_requested=True))


# --- Running one ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of one process to run a run, for as long as its name is in the row."""

    pk: int
    runner: str
    resumed_from: datetime | None = None
    """When the runner before, if it died, wrote its counts last."""

    def change(self, **values: Any) -> bool:
        """Change the row; False: another process runs it now, or it is gone."""
        rows = WarmupRun.objects.filter(
            pk=self.pk, runner=self.runner, state=WarmupRun.State.RUNNING
        )
        return bool(rows.update(**values))

    def alive(self) -> bool:
        """Give a sign of life; False: another process runs it now."""
        return self.change(seen=timezone.now())

    def going_on(self) -> bool | None:
        """Return whether the run shall go on; None: another process runs it now."""
        row = (
            WarmupRun.objects.filter(pk=self.pk)
            .values_list("runner", "state", "stop_requested")
            .first()
        )
        if row is None or row[:2] != (self.runner, WarmupRun.State.RUNNING):
            return None
        return not row[2]

    def end(self, state: WarmupRun.State, message: str = "") -> bool:
        """Write down how it ended."""
        now = timezone.now()
        return self.change(state=state, message=message[:2000], ended=now, seen=now)

    def give_back(self) -> bool:
        """Let another process go on with it: this one ends."""
        return self.change(state=WarmupRun.State.WAITING, runner="")


def claim(now: datetime, *, pk: int | None = None) -> Claim | None:
    """Return the claim to a run that nobody runs: one that waits, or whose runner is dead.

    Args:
        now: The time.
        pk: The run that is wanted; None: any.
    """
    dead = now - timedelta(seconds=warmup_settings().dead_seconds)
    rows = WarmupRun.objects.filter(
        Q(state=WarmupRun.State.WAITING) | Q(state=WarmupRun.State.RUNNING, seen__lt=dead)
    )
    if pk is not None:
        rows = rows.filter(pk=pk)
    for row in rows.defer("strategies").order_by("requested", "pk")[:20]:
        runner = f"{process_name()}/{secrets.token_hex(4)}"
        mine = WarmupRun.objects.filter(
            pk=row.pk, state=row.state, runner=row.runner, seen=row.seen
        )
        died = row.state == WarmupRun.State.RUNNING
        if mine.update(
            state=WarmupRun.State.RUNNING,
            runner=runner,
            seen=now,
            started=row.started or now,
            takeovers=F("takeovers") + int(died),
        ):
            if died:
                logger.warning("%s took over warm-up run %s from %s", runner, row.pk, row.runner)
            return Claim(row.pk, runner, (row.counted or row.started) if died else None)
    return None


def prune(now: datetime) -> None:
    """Delete old runs, and the questions that nobody needs any more."""
    settings = warmup_settings()
    WarmupQuestion.objects.filter(run__ended__lt=now - _SHOWN).filter(
        Q(fresh_until=None) | Q(fresh_until__lt=now - _LATE)
    ).delete()
    ended = WarmupRun.objects.exclude(state__in=WarmupRun.ACTIVE).order_by("-requested", "-pk")
    for requested in ended.values_list("requested", flat=True)[settings.runs : settings.runs + 1]:
        ended.filter(requested__lte=requested).delete()
    newest = WarmupQuestion.objects.order_by("-pk").values_list("pk", flat=True)
    for pk in newest[settings.questions : settings.questions + 1]:
        WarmupQuestion.objects.filter(pk__lte=pk).exclude(run__state__in=WarmupRun.ACTIVE).delete()
