"""Roll-outs: a candidate's share goes up by steps, and back to nothing if it is worse.

Admin, API and commands start, raise, promote and abort; `evaluate`, which serving processes call
every few seconds, compares the canary with production, and rolls it back. Each step is a row, and a
line in the model's history in the admin.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from serving_app import promotion
from serving_app.core.evidence import Evidence
from serving_app.core.live_models import CANARY
from serving_app.core.outcomes import OutcomeCounts
from serving_app.core.sequential_test import Arm, Verdict
from serving_app.core.statistics import Statistics
from serving_app.models import Alias, ModelVersion, ProcessStatistics, RollOut, RollOutStep

__all__ = ["ALPHA", "abort", "evaluate", "next_percent", "promote", "raise_share", "start"]

logger = logging.getLogger(__name__)

ALPHA = 0.01
"""The greatest probability that a candidate that is no worse is ever rolled back."""
EVERY = 1.5
"""Seconds between two evaluations, at least, by whatever process."""
ENOUGH = 100
"""Computations of the canary without which it gets no next share by itself."""


def start(
    candidate: ModelVersion,
    percents: Sequence[float | str | Decimal],
    *,
    step_seconds: float | None = None,
    by: User | None = None,
) -> RollOut:
    """Let a candidate answer a share of its model's users, and compare it with production.

    Args:
        candidate: The version.
        percents: The shares it shall get, one after the other, in percent.
        step_seconds: After how long it gets the next by itself, and is promoted after the last;
            None: only by hand.
        by: Who does it.

    Raises:
        ValidationError: The candidate is live already, or failed its last validation; a roll-out
            runs already; the shares are none, or do not go up.
    """
    steps = _steps(percents)
    promotion.check_sound(candidate)
    with transaction.atomic():
        model = promotion.locked(candidate.model)
        production = model.live_version
        if production is None:
            raise ValidationError(f"{model.name} has no live version to compare with: promote one.")
        if production == candidate:
            raise ValidationError(f"{candidate} is in production already.")
        if model.roll_outs.filter(state=RollOut.State.RUNNING).exists():
            raise ValidationError(f"{model.name} has a roll-out running. End it first.")
        roll_out = RollOut(
            model=model,
            candidate=candidate,
            production=production,
            percents=[float(step) for step in steps],
            step_seconds=step_seconds,
            stepped=timezone.now(),
            by=by,
        )
        roll_out.full_clean(exclude=["model", "candidate", "production", "by"])
        roll_out.save()
        promotion.lead(model, CANARY, candidate, percent=steps[0])
        _record(roll_out, RollOutStep.Action.STARTED, steps[0], by)
    return roll_out


def next_percent(roll_out: RollOut) -> Decimal | None:
    """Return the share that comes after the present one; None after the last."""
    present = roll_out.percent
    later = [Decimal(str(step)) for step in roll_out.percents if Decimal(str(step)) > present]
    return min(later, default=None)


def raise_share(
    roll_out: RollOut,
    percent: float | str | Decimal | None = None,
    *,
    by: User | None = None,
    reason: str = "",
) -> RollOut:
    """Change the canary's share to ``percent``, or to the next of the roll-out's steps.

    Raises:
        ValidationError: The roll-out has ended, has no further step, or the share is none.
    """
    with transaction.atomic():
        roll_out = _running(roll_out)
        wanted = next_percent(roll_out) if percent is None else _steps([percent])[0]
        if wanted is None:
            raise ValidationError("That was the last step: promote the candidate, or abort.")
        promotion.lead(roll_out.model, CANARY, roll_out.candidate, percent=wanted)
        roll_out.stepped = timezone.now()
        roll_out.save(update_fields=["stepped"])
        _record(roll_out, RollOutStep.Action.RAISED, wanted, by, reason=reason)
    return roll_out


def promote(roll_out: RollOut, *, by: User | None = None, reason: str = "") -> RollOut:
    """Let the candidate answer everyone; production's old version stays warm for a while.

    Raises:
        ValidationError: The roll-out has ended, or the candidate failed its last validation.
    """
    with transaction.atomic():
        roll_out = _running(roll_out)
        promotion.check_sound(roll_out.candidate)
        promotion.make_live(roll_out.model, roll_out.candidate, by=by)
        _end(roll_out, RollOut.State.PROMOTED)
        _record(roll_out, RollOutStep.Action.PROMOTED, Decimal(100), by, reason=reason)
    return roll_out


def abort(roll_out: RollOut, *, by: User | None = None, reason: str = "") -> RollOut:
    """Let production answer everyone again.

    Raises:
        ValidationError: The roll-out has ended.
    """
    with transaction.atomic():
        roll_out = _running(roll_out)
        _end(roll_out, RollOut.State.ABORTED)
        _record(roll_out, RollOutStep.Action.ABORTED, Decimal(0), by, reason=reason)
    return roll_out


def evaluate() -> None:
    """Compare each canary with production, by what all processes told, and act on it.

    Every serving process calls it; of several at once, one does it.
    """
    now = timezone.now()
    running = RollOut.objects.filter(state=RollOut.State.RUNNING)
    due = running.exclude(evaluated__gt=now - timedelta(seconds=EVERY))
    for roll_out in due.select_related("model", "candidate", "production", "by"):
        evidence = Evidence.from_json(roll_out.evidence)
        verdict = evidence.look(_told(roll_out), alpha=ALPHA)
        # Of the processes that read the same turn, one writes it: compare-and-swap.
        mine = running.filter(pk=roll_out.pk, turn=roll_out.turn)
        written = {"turn": roll_out.turn + 1, "evaluated": now, "evidence": evidence.as_json()}
        if not mine.update(**written):
            continue
        try:
            if verdict is not None:
                _roll_back(roll_out, evidence, verdict)
            else:
                _go_on(roll_out, evidence)
        except ValidationError as error:  # somebody ended it meanwhile, or the version is unsound
            logger.warning("The roll-out of %s: %s", roll_out.candidate, " ".join(error.messages))


def _told(roll_out: RollOut) -> dict[str, tuple[OutcomeCounts, OutcomeCounts]]:
    """Return what each process counted of the candidate and of production."""
    told = {}
    name = roll_out.model.name
    for row in ProcessStatistics.objects.all():
        try:
            versions = Statistics.from_json(row.serving).versions.get(name, {})
        except ValueError:  # a process of another release, during an update
            continue
        canary = versions.get(roll_out.candidate.number)
        production = versions.get(roll_out.production.number)
        if canary is not None and production is not None:
            # A process without the canary would bring in a production under other conditions.
            told[row.process] = (canary.outcomes, production.outcomes)
    return told


def _roll_back(roll_out: RollOut, evidence: Evidence, verdict: Verdict) -> None:
    what = "fails more often" if verdict.measure == "errors" else "is slower"
    figures = _figures(evidence, verdict)
    reason = (
        f"The canary {what} than production: {_words(evidence.canary)} against "
        f"{_words(evidence.production)}; e-value {verdict.e_value:.3g} (limit {2 / ALPHA:g})."
    )
    with transaction.atomic():
        roll_out = _running(roll_out)
        _end(roll_out, RollOut.State.ROLLED_BACK)
        _record(roll_out, RollOutStep.Action.ROLLED_BACK, Decimal(0), None, reason, figures=figures)
        promotion.log(roll_out.model, roll_out.by, f"Rolled {roll_out.candidate} back. {reason}")
    logger.warning("%s is rolled back. %s", roll_out.candidate, reason)


def _go_on(roll_out: RollOut, evidence: Evidence) -> None:
    """Give the canary its next share, or everything, if it has had the present one for long."""
    seconds = roll_out.step_seconds
    if seconds is None or timezone.now() - roll_out.stepped < timedelta(seconds=seconds):
        return
    if evidence.canary.requests < ENOUGH:
        return
    reason = f"Nothing against it: {_words(evidence.canary)}."
    if next_percent(roll_out) is None:
        promote(roll_out, reason=reason)
    else:
        raise_share(roll_out, reason=reason)


def _figures(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    return {
        "measure": verdict.measure,
        "e_value": verdict.e_value,
        "canary": {"computed": evidence.canary.requests, "failed": evidence.canary.errors},
        "production": {
            "computed": evidence.production.requests,
            "failed": evidence.production.errors,
        },
    }


def _words(arm: Arm) -> str:
    return f"{arm.errors} of {arm.requests} failed, half took {arm.median_ms:.3g} ms or less"


def _running(roll_out: RollOut) -> RollOut:
    """Return the row as it is now, its model locked."""
    promotion.locked(roll_out.model)
    roll_out = RollOut.objects.select_related("model", "candidate__model", "production").get(
        pk=roll_out.pk
    )
    if roll_out.state != RollOut.State.RUNNING:
        raise ValidationError(f"The roll-out has ended: {roll_out.get_state_display()}.")
    return roll_out


def _end(roll_out: RollOut, state: RollOut.State) -> None:
    roll_out.state = state
    roll_out.ended = timezone.now()
    roll_out.save(update_fields=["state", "ended"])
    for alias in Alias.objects.filter(model=roll_out.model, name=CANARY):
        alias.delete()  # one by one, so that this process hears of it


def _record(
    roll_out: RollOut,
    action: RollOutStep.Action,
    percent: Decimal,
    by: User | None,
    reason: str = "",
    *,
    figures: dict[str, Any] | None = None,
) -> None:
    RollOutStep.objects.create(
        roll_out=roll_out,
        action=action,
        percent=percent,
        by=by,
        reason=reason,
        figures=figures or {},
    )
    share = f", {percent.normalize():f} %" if action != RollOutStep.Action.ABORTED else ""
    message = f"Roll-out of {roll_out.candidate}: {action.label}{share}. {reason}".strip()
    promotion.log(roll_out.model, by, message)


def _steps(percents: Sequence[float | str | Decimal]) -> list[Decimal]:
    """Return the shares.

    Raises:
        ValidationError: They are none, or do not go up.
    """
    try:
        steps = [Decimal(str(percent)) for percent in percents]
    except InvalidOperation as error:
        raise ValidationError({"percents": "Shares are numbers, in percent."}) from error
    fine = all(step.is_finite() and 0 < step <= 100 and step == round(step, 2) for step in steps)
    if not steps or not fine:
        raise ValidationError(
            {"percents": "Give shares above 0 and up to 100 percent, in steps of 0.01."}
        )
    if sorted(set(steps)) != steps:
        raise ValidationError({"percents": "Shares must go up from step to step."})
    return steps
