"""Alerts in the ORM: rules, what became of them, silences, channels, and notices to be sent."""

from __future__ import annotations

import math
from typing import ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from plugins import InvalidOptions, UnknownPlugin
from plugins.apps import get_registry
from serving_app.alert_conf import alert_settings
from serving_app.core.alert_url import check_url
from serving_app.core.alerting import Condition
from serving_app.core.rollup_metrics import METRICS

__all__ = [
    "Alert",
    "AlertChannel",
    "AlertDelivery",
    "AlertEvent",
    "AlertLease",
    "AlertRule",
    "AlertSilence",
    "Severity",
]

_DAY = 86400


class Severity(models.TextChoices):
    """How bad it is."""

    INFO = "info", _("info")
    WARNING = "warning", _("warning")
    CRITICAL = "critical", _("critical")


class AlertChannel(models.Model):
    """Where notices go: a channel of a plugin, with its options."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    kind = models.CharField(
        _("kind"), max_length=100, help_text=_("log, email, webhook, or one of a plugin.")
    )
    options = models.JSONField(_("options"), default=dict, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True)

    class Meta:
        """Names and order."""

        verbose_name = _("alert channel")
        verbose_name_plural = _("alert channels")
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Check that there is such a channel, and that it takes the options.

        Raises:
            ValidationError: There is none, or it does not.
        """
        if not isinstance(self.options, dict):
            raise ValidationError({"options": _("Give a JSON object.")})
        channels = get_registry().alert_channels
        try:
            channels.check_options(self.kind, self.options)
        except UnknownPlugin as error:
            raise ValidationError({"kind": str(error)}) from error
        except InvalidOptions as error:
            raise ValidationError({"options": str(error)}) from error
        try:
            if "url" in self.options:
                check_url(self.options["url"], alert_settings().webhook_hosts)
            channels.create(self.kind, self.options)
        except (InvalidOptions, ValueError) as error:
            raise ValidationError({"options": str(error)}) from error


class AlertRule(models.Model):
    """What to look at, and when it is bad."""

    class Kind(models.TextChoices):
        """What is compared with the threshold."""

        THRESHOLD = "threshold", _("the value over the window")
        RATE = "rate", _("the sum over the window, per second")
        ABSENCE = "absence", _("nothing was counted in the window")
        YESTERDAY = "yesterday", _("the change from the same hour of the day before, as a part")

    name = models.CharField(_("name"), max_length=100, unique=True)
    description = models.TextField(
        _("description"), blank=True, help_text=_("What it means, and what to do.")
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    severity = models.CharField(
        _("severity"), max_length=16, choices=Severity.choices, default=Severity.WARNING
    )
    metric = models.CharField(_("metric"), max_length=32)
    model = models.CharField(_("model"), max_length=100, blank=True, help_text=_("Empty: all."))
    segment = models.CharField(_("segment"), max_length=100, blank=True, help_text=_("Empty: all."))
    level = models.CharField(
        _("level"), max_length=64, blank=True, help_text=_("Of the cache; empty: all.")
    )
    kind = models.CharField(_("kind"), max_length=16, choices=Kind.choices, default=Kind.THRESHOLD)
    above = models.BooleanField(
        _("above is bad"), default=True, help_text=_("Else a value below the threshold is.")
    )
    threshold = models.FloatField(
        _("threshold"),
        default=0.0,
        help_text=_("Seconds, parts of 1, or counts, as the metric is; -0.3: 30 % less."),
    )
    clear = models.FloatField(
        _("clear"),
        null=True,
        blank=True,
        help_text=_("Beyond which it is good again; empty: the threshold."),
    )
    window = models.PositiveIntegerField(
        _("window (s)"),
        default=300,
        validators=[MinValueValidator(120), MaxValueValidator(6 * 3600)],
        help_text=_("Over which the value is taken: 120 to 21600."),
    )
    hold = models.PositiveIntegerField(
        _("for (s)"),
        default=0,
        validators=[MaxValueValidator(_DAY)],
        help_text=_("How long it must be bad before the alert fires."),
    )
    calm = models.PositiveIntegerField(
        _("calm (s)"),
        default=60,
        validators=[MaxValueValidator(_DAY)],
        help_text=_("How long it must be good before the alert is resolved."),
    )
    least = models.PositiveIntegerField(
        _("least"),
        default=0,
        help_text=_(
            "Requests (of a hit rate: look-ups) in the window, without which nothing is said."
        ),
    )
    channels = models.ManyToManyField(
        AlertChannel, blank=True, related_name="rules", verbose_name=_("channels")
    )
    changed = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        """Names and order."""

        verbose_name = _("alert rule")
        verbose_name_plural = _("alert rules")
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Check what the fields mean together.

        Raises:
            ValidationError: The metric cannot be told apart so, or a limit makes no sense.
        """
        metric = METRICS.get(self.metric)
        if metric is None:  # no choices of the field: new metrics must not need a migration
            there = ", ".join(sorted(METRICS))
            raise ValidationError({"metric": _("There is none; there are: %s.") % there})
        for label in ("model", "segment", "level"):
            if getattr(self, label) and label not in metric.by:
                by = ", ".join(sorted(metric.by)) or _("nothing")
                raise ValidationError({label: _("%s is known by %s.") % (self.metric, by)})
        for name in ("threshold", "clear"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValidationError({name: _("Give a number.")})
        if self.kind == self.Kind.RATE and (metric.bottom or metric.quantile):
            raise ValidationError({"kind": _("Only a count has a rate; this is none.")})
        if (
            self.clear is not None
            and self.threshold is not None
            and (self.clear > self.threshold if self.above else self.clear < self.threshold)
        ):
            raise ValidationError(
                {"clear": _("It is good again on the good side of the threshold.")}
            )

    def condition(self) -> Condition:
        """Return what the state machine needs."""
        return Condition(
            self.kind,  # type: ignore[arg-type]  # its choices are those
            self.above,
            self.threshold,
            self.clear,
            float(self.hold),
            float(self.calm),
        )

    def labels(self) -> dict[str, str]:
        """Return what the rule is about."""
        names = ("model", "segment", "level")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


class Alert(models.Model):
    """One time that a rule's condition held."""

    class State(models.TextChoices):
        """How far it is."""

        PENDING = "pending", _("pending")
        FIRING = "firing", _("firing")
        RESOLVED = "resolved", _("resolved")

    rule = models.ForeignKey(
        AlertRule, on_delete=models.CASCADE, related_name="alerts", verbose_name=_("rule")
    )
    state = models.CharField(
        _("state"), max_length=16, choices=State.choices, default=State.PENDING
    )
    severity = models.CharField(_("severity"), max_length=16, choices=Severity.choices)
    started = models.DateTimeField(_("started"))
    fired = models.DateTimeField(_("fired"), null=True, blank=True)
    resolved = models.DateTimeField(_("resolved"), null=True, blank=True)
    calm_since = models.DateTimeField(_("calm since"), null=True, blank=True)
    value = models.FloatField(_("value"), null=True, blank=True)
    notified = models.DateTimeField(
        _("notified"), null=True, blank=True, help_text=_("Empty: not yet, or it is silenced.")
    )
    turn = models.PositiveBigIntegerField(_("turn"), default=0)

    OPEN: ClassVar = ("pending", "firing")

    class Meta:
        """Names, order, and one that is open per rule."""

        verbose_name = _("alert")
        verbose_name_plural = _("alerts")
        ordering = ("-started", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("rule",),
                condition=models.Q(state__in=("pending", "firing")),
                name="one_open_alert_per_rule",
            ),
        )
        indexes = (models.Index(fields=("state", "started"), name="alert_by_state"),)

    def __str__(self) -> str:
        return f"{self.rule}: {self.get_state_display()}"


class AlertEvent(models.Model):
    """A step of an alert."""

    alert = models.ForeignKey(
        Alert, on_delete=models.CASCADE, related_name="events", verbose_name=_("alert")
    )
    at = models.DateTimeField(_("at"))
    state = models.CharField(_("state"), max_length=16, choices=Alert.State.choices)
    value = models.FloatField(_("value"), null=True, blank=True)

    class Meta:
        """Names and order."""

        verbose_name = _("step of an alert")
        verbose_name_plural = _("steps of alerts")
        ordering = ("at", "pk")

    def __str__(self) -> str:
        return f"{self.get_state_display()} {self.at:%Y-%m-%d %H:%M:%S}"


class AlertSilence(models.Model):
    """A time in which alerts send no notices."""

    rule = models.ForeignKey(
        AlertRule,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="silences",
        verbose_name=_("rule"),
        help_text=_("Empty: every rule."),
    )
    model = models.CharField(
        _("model"), max_length=100, blank=True, help_text=_("Rules of this model; empty: all.")
    )
    severity = models.CharField(
        _("severity"),
        max_length=16,
        choices=Severity.choices,
        blank=True,
        help_text=_("Empty: every one."),
    )
    starts = models.DateTimeField(_("starts"), default=timezone.now)
    ends = models.DateTimeField(_("ends"))
    reason = models.CharField(_("reason"), max_length=500)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
        verbose_name=_("by"),
    )

    class Meta:
        """Names and order."""

        verbose_name = _("silence")
        verbose_name_plural = _("silences")
        ordering = ("-ends",)

    def __str__(self) -> str:
        return f"{self.rule or _('every rule')}: {self.reason}"

    def clean(self) -> None:
        """Check that it ends after it starts.

        Raises:
            ValidationError: It does not.
        """
        if self.starts and self.ends and self.ends <= self.starts:
            raise ValidationError({"ends": _("It ends after it starts.")})


class AlertDelivery(models.Model):
    """A notice for a channel: kept until it is taken, or given up."""

    class State(models.TextChoices):
        """What became of it."""

        WAITING = "waiting", _("waiting")
        SENT = "sent", _("sent")
        GIVEN_UP = "given_up", _("given up")

    channel = models.ForeignKey(
        AlertChannel, on_delete=models.CASCADE, related_name="deliveries", verbose_name=_("channel")
    )
    alert = models.ForeignKey(
        Alert, on_delete=models.CASCADE, related_name="deliveries", verbose_name=_("alert")
    )
    notice = models.JSONField(_("notice"))
    state = models.CharField(
        _("state"), max_length=16, choices=State.choices, default=State.WAITING
    )
    made = models.DateTimeField(_("made"))
    due = models.DateTimeField(_("due"), help_text=_("When it is tried next."))
    tries = models.PositiveIntegerField(_("tries"), default=0)
    problem = models.TextField(_("problem"), blank=True, help_text=_("Why the last try failed."))

    class Meta:
        """Names, order, and what is searched."""

        verbose_name = _("alert notice")
        verbose_name_plural = _("alert notices")
        ordering = ("-made", "-pk")
        indexes = (models.Index(fields=("state", "due"), name="delivery_by_due"),)

    def __str__(self) -> str:
        return f"{self.alert} → {self.channel}"


class AlertLease(models.Model):
    """Which process evaluates rules, or sends notices, for the moment."""

    name = models.CharField(_("name"), max_length=32, primary_key=True)
    holder = models.CharField(_("holder"), max_length=255, blank=True)
    until = models.DateTimeField(_("until"))

    class Meta:
        """Names."""

        verbose_name = _("lease of alerts")
        verbose_name_plural = _("leases of alerts")

    def __str__(self) -> str:
        return f"{self.name}: {self.holder}"
