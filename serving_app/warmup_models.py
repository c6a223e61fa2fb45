"""Warm-up in the database: schedules, runs, and the questions of each run."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from plugins import PluginError, UnknownPlugin, UserId
from serving_app.core.schedule_times import SHORTEST, check_cron, next_time, zone_of
from serving_app.warmup_conf import warmup_settings
from serving_app.warmup_strategies import make_strategy

__all__ = ["ScheduledStrategy", "WarmupQuestion", "WarmupRun", "WarmupSchedule"]

_NAME = RegexValidator(
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z",
    _(
        "A name has 1 to 100 letters, digits, dots, dashes or underscores, and begins with a "
        "letter or digit."
    ),
)


def finite(value: float) -> None:
    """Return if a number is one; comparing leaves NaN through.

    Raises:
        ValidationError: It is not.
    """
    if not math.isfinite(value):
        raise ValidationError(_("Give a finite number."))


class WarmupPlan(models.Model):
    """How a run goes: what a schedule says, and what a run was told."""

    alias = models.CharField(
        _("alias"),
        max_length=100,
        blank=True,
        help_text=_("An alias or version of the model; empty: whatever answers who asks for none."),
    )
    time_zone = models.CharField(
        _("time zone"),
        max_length=64,
        default="UTC",
        help_text=_("In which hours of the day are meant, such as Europe/Berlin."),
    )
    budget = models.PositiveIntegerField(
        _("budget"),
        default=1000,
        validators=[MinValueValidator(1)],
        help_text=_("How many questions one run warms at most."),
    )
    batch_size = models.PositiveIntegerField(
        _("batch size"),
        default=8,
        validators=[MinValueValidator(1), MaxValueValidator(1024)],
        help_text=_("Questions that are computed together; small ones are less in others' way."),
    )
    rate = models.FloatField(
        _("rate"),
        default=50.0,
        validators=[finite, MinValueValidator(0.01), MaxValueValidator(100_000)],
        help_text=_("Questions a second, at most."),
    )

    class Meta:
        """No table of its own."""

        abstract = True

    def clean(self) -> None:
        """Check what the database cannot.

        Raises:
            ValidationError: Something is wrong; the fields are named.
        """
        if problems := self.problems():
            raise ValidationError(problems)

    def problems(self) -> dict[str, str]:
        """Return what is wrong, by field."""
        problems: dict[str, str] = {}
        try:
            zone_of(self.time_zone)
        except ValueError as error:
            problems["time_zone"] = str(error)
        most = warmup_settings().max_budget
        if self.budget is not None and self.budget > most:
            problems["budget"] = f"At most {most} (RECSERVE['WARM_UP']['MAX_BUDGET'])."
        return problems


class WarmupSchedule(WarmupPlan):
    """What is warmed, and when."""

    name = models.CharField(_("name"), max_length=100, unique=True, validators=[_NAME])
    model = models.ForeignKey(
        "serving_app.ServedModel",
        on_delete=models.CASCADE,
        related_name="warmup_schedules",
        verbose_name=_("model"),
    )
    cron = models.CharField(
        _("cron"),
        max_length=100,
        blank=True,
        help_text=_(
            "Minute, hour, day of the month, month, day of the week, by the time zone's clock."
        ),
    )
    interval = models.FloatField(
        _("interval"),
        null=True,
        blank=True,
        validators=[finite, MinValueValidator(SHORTEST), MaxValueValidator(366 * 86_400.0)],
        help_text=_("Seconds from one run to the next; instead of cron. Neither: only by hand."),
    )
    enabled = models.BooleanField(
        _("enabled"), default=True, help_text=_("Whether it runs by itself.")
    )
    next_due = models.DateTimeField(_("next due"), null=True, blank=True, editable=False)
    created = models.DateTimeField(_("created"), auto_now_add=True)
    changed = models.DateTimeField(_("changed"), auto_now=True)
    warmed = models.PositiveBigIntegerField(_("warmed"), default=0, editable=False)
    earned = models.PositiveBigIntegerField(_("hits earned"), default=0, editable=False)
    model_seconds = models.FloatField(_("model seconds spent"), default=0.0, editable=False)
    seconds_saved = models.FloatField(_("model seconds saved"), default=0.0, editable=False)

    class Meta:
        """Names and order."""

        verbose_name = _("warm-up schedule")
        verbose_name_plural = _("warm-up schedules")
        ordering = ("name",)
        indexes = (models.Index(fields=("enabled", "next_due"), name="warmup_due"),)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save it, and work out anew when it is due."""
        if not kwargs.get("update_fields"):
            self.next_due = self.due_after(timezone.now()) if self.enabled else None
        super().save(*args, **kwargs)

    def problems(self) -> dict[str, str]:
        """Return what is wrong, by field."""
        problems = super().problems()
        if self.cron and self.interval is not None:
            problems["interval"] = str(_("Give cron or an interval, not both."))
        if self.cron:
            try:
                check_cron(self.cron)
            except ValueError as error:
                problems["cron"] = str(error)
        return problems

    def due_after(self, moment: datetime, *, last: datetime | None = None) -> datetime | None:
        """Return when it is due next; None: never by itself."""
        return next_time(
            moment, cron=self.cron, interval=self.interval, zone=self.time_zone, last=last
        )

    @property
    def hit_share(self) -> float | None:
        """The part of all that it warmed that was asked for in time."""
        return self.earned / self.warmed if self.warmed else None

    def strategies_as_json(self) -> list[dict[str, Any]]:
        """Return its strategies as a run keeps them."""
        return [
            {"strategy": row.strategy, "weight": row.weight, "options": row.options}
            for row in self.strategies.order_by("pk")
        ]


class ScheduledStrategy(models.Model):
    """One strategy of a schedule."""

    schedule = models.ForeignKey(
        WarmupSchedule,
        on_delete=models.CASCADE,
        related_name="strategies",
        verbose_name=_("schedule"),
    )
    strategy = models.CharField(_("strategy"), max_length=64)
    weight = models.FloatField(
        _("weight"),
        default=1.0,
        validators=[finite, MinValueValidator(0.001), MaxValueValidator(1000.0)],
        help_text=_("What its scores count beside the other strategies'."),
    )
    options = models.JSONField(_("options"), default=dict, blank=True)

    class Meta:
        """Names and order."""

        verbose_name = _("strategy")
        verbose_name_plural = _("strategies")
        ordering = ("pk",)

    def __str__(self) -> str:
        return self.strategy

    def clean(self) -> None:
        """Check the strategy's name and options, by making one.

        Raises:
            ValidationError: There is none of this name, or it does not take the options.
        """
        self.options = {} if self.options is None else self.options
        try:
            make_strategy(self.strategy, self.options)
        except UnknownPlugin as error:
            raise ValidationError({"strategy": str(error)}) from error
        except PluginError as error:
            raise ValidationError({"options": str(error)}) from error


class WarmupRun(WarmupPlan):
    """One warm-up, of a schedule or by itself. Only the process that is its runner changes it."""

    class State(models.TextChoices):
        """How far it is."""

        WAITING = "waiting", _("waiting")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        STOPPED = "stopped", _("stopped")
        FAILED = "failed", _("failed")

    ACTIVE = (State.WAITING, State.RUNNING)

    schedule = models.ForeignKey(
        WarmupSchedule,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="runs",
        verbose_name=_("schedule"),
    )
    model = models.CharField(_("model"), max_length=100)
    strategies = models.JSONField(_("strategies"))
    by_clock = models.BooleanField(_("by the clock"), default=False)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("by"),
    )
    state = models.CharField(
        _("state"), max_length=16, choices=State.choices, default=State.WAITING
    )
    requested = models.DateTimeField(_("requested"), default=timezone.now)
    started = models.DateTimeField(_("started"), null=True, blank=True)
    ended = models.DateTimeField(_("ended"), null=True, blank=True)
    runner = models.CharField(
        _("runner"), max_length=160, blank=True, help_text=_("The process that runs it.")
    )
    seen = models.DateTimeField(
        _("seen"), null=True, blank=True, help_text=_("The runner's last sign of life.")
    )
    counted = models.DateTimeField(
        _("counted"), null=True, blank=True, help_text=_("When its counts were written last.")
    )
    takeovers = models.PositiveIntegerField(
        _("takeovers"), default=0, help_text=_("How often its runner died, and another went on.")
    )
    stop_requested = models.BooleanField(_("stop requested"), default=False)
    planned = models.BooleanField(
        _("planned"), default=False, help_text=_("Whether its questions are chosen.")
    )
    candidates = models.PositiveIntegerField(
        _("candidates"), default=0, help_text=_("Questions that were chosen.")
    )
    warmed = models.PositiveIntegerField(
        _("warmed"), default=0, help_text=_("Questions whose answer was computed.")
    )
    fresh = models.PositiveIntegerField(
        _("fresh"), default=0, help_text=_("Questions whose answer was fresh already.")
    )
    refused = models.PositiveIntegerField(
        _("refused"), default=0, help_text=_("Questions that the model could not take.")
    )
    errors = models.PositiveIntegerField(
        _("errors"), default=0, help_text=_("Questions that cannot be answered.")
    )
    model_seconds = models.FloatField(
        _("model seconds spent"), default=0.0, help_text=_("The model's time for what was warmed.")
    )
    earned = models.PositiveIntegerField(
        _("hits earned"),
        default=0,
        help_text=_("Warmed questions that were asked while the answer was fresh."),
    )
    seconds_saved = models.FloatField(
        _("model seconds saved"),
        default=0.0,
        help_text=_("The model's time for those answers, that no request waited for."),
    )
    message = models.TextField(_("message"), blank=True)

    class Meta:
        """Names, order, and one run at a time for each schedule."""

        verbose_name = _("warm-up run")
        verbose_name_plural = _("warm-up runs")
        ordering = ("-requested", "-pk")
        indexes = (models.Index(fields=("state", "requested"), name="warmup_run_by_state"),)
        constraints = (
            models.UniqueConstraint(
                fields=("schedule",),
                condition=Q(state__in=("waiting", "running")),
                name="one_warmup_run_at_a_time",
            ),
        )

    def __str__(self) -> str:
        return f"{self.schedule or self.model} {self.requested:%Y-%m-%d %H:%M:%S}"

    @property
    def done(self) -> int:
        """How many of its questions are dealt with."""
        return self.warmed + self.fresh + self.refused + self.errors

    @property
    def progress(self) -> float:
        """The part of its questions that is dealt with."""
        if self.state == self.State.DONE:
            return 1.0
        return self.done / self.candidates if self.candidates else 0.0

    @property
    def hit_share(self) -> float | None:
        """The part of what it warmed that was asked for in time."""
        return self.earned / self.warmed if self.warmed else None

    @property
    def seconds(self) -> float | None:
        """How long it took, or takes by now."""
        if self.started is None:
            return None
        return ((self.ended or timezone.now()) - self.started).total_seconds()

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in self.ACTIVE


class WarmupQuestion(models.Model):
    """One question of a run: what became of it, and whether it was asked for."""

    class State(models.TextChoices):
        """What became of it."""

        WAITING = "waiting", _("waiting")
        WARMED = "warmed", _("warmed")
        FRESH = "fresh", _("fresh")
        REFUSED = "refused", _("refused")
        ERROR = "error", _("error")

    run = models.ForeignKey(
        WarmupRun, on_delete=models.CASCADE, related_name="questions", verbose_name=_("run")
    )
    position = models.PositiveIntegerField(_("position"))
    digest = models.CharField(_("digest"), max_length=32, db_index=True)
    user = models.CharField(_("user"), max_length=256)
    user_is_number = models.BooleanField(_("user is a number"), default=False)
    alias = models.CharField(_("alias"), max_length=100, blank=True)
    context = models.TextField(_("context"), default="{}")
    features = models.TextField(_("features"), blank=True)
    k = models.PositiveIntegerField(_("k"))
    score = models.FloatField(_("score"))
    reason = models.CharField(_("reason"), max_length=500)
    renew_before = models.FloatField(_("renewed before"), default=0.0)
    state = models.CharField(
        _("state"), max_length=16, choices=State.choices, default=State.WAITING
    )
    problem = models.CharField(_("problem"), max_length=500, blank=True)
    warmed_at = models.DateTimeField(_("warmed at"), null=True)
    fresh_until = models.DateTimeField(_("fresh until"), null=True)
    model_seconds = models.FloatField(_("model seconds"), default=0.0)
    asked = models.DateTimeField(_("first asked"), null=True)

    class Meta:
        """Names, order, and one place for each."""

        verbose_name = _("warmed question")
        verbose_name_plural = _("warmed questions")
        ordering = ("run", "position")
        constraints = (
            models.UniqueConstraint(fields=("run", "position"), name="unique_warmup_position"),
        )
        indexes = (
            models.Index(fields=("run", "state", "position"), name="warmup_question_by_state"),
            models.Index(fields=("fresh_until",), name="warmup_question_by_expiry"),
        )

    def __str__(self) -> str:
        return f"{self.user} {self.context}: {self.state}"

    @property
    def user_id(self) -> UserId:
        """The user as it asks."""
        return int(self.user) if self.user_is_number else self.user
