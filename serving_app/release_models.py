"""What answers for each model, in the ORM: aliases, and roll-outs with their history."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from serving_app.core.live_models import CANARY, PRODUCTION, SHADOW

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

ALIAS_NAME = RegexValidator(
    r"^(?![0-9]+\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z",
    _(
        "An alias has 1 to 100 letters, digits, dots, dashes or underscores, begins with a letter "
        "or digit, and is no number: numbers are versions."
    ),
)
PERCENT = (MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(100)))


def percent_field(name: StrOrPromise, help_text: StrOrPromise) -> models.DecimalField[Any, Any]:
    """Return a field for a share in percent, in steps of 0.01."""
    return models.DecimalField(
        name,
        max_digits=5,
        decimal_places=2,
        default=Decimal(0),
        validators=PERCENT,
        help_text=help_text,
    )


class Alias(models.Model):
    """A name for one of a model's versions. Every version with an alias is live."""

    model = models.ForeignKey(
        "serving_app.ServedModel",
        on_delete=models.CASCADE,
        related_name="aliases",
        verbose_name=_("model"),
    )
    name = models.CharField(
        _("alias"),
        max_length=100,
        validators=[ALIAS_NAME],
        help_text=_(
            "'production' answers; 'canary' answers a share of the users during a roll-out; "
            "'shadow' is computed beside production and never answers; others are yours: clients "
            "ask for model@alias."
        ),
    )
    version = models.ForeignKey(
        "serving_app.ModelVersion",
        on_delete=models.RESTRICT,
        related_name="aliases",
        verbose_name=_("version"),
    )
    percent = percent_field(
        _("percent"),
        _("canary: of the users that it answers; shadow: of production's computations."),
    )
    changed = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        """Names, order, and one row per model and name."""

        verbose_name = _("alias")
        verbose_name_plural = _("aliases")
        ordering = ("model__name", "name")
        constraints = (models.UniqueConstraint(fields=("model", "name"), name="unique_alias"),)

    def __str__(self) -> str:
        return f"{self.model.name}@{self.name}"

    def clean(self) -> None:
        """Check what the fields mean together.

        Raises:
            ValidationError: The version is another model's, or the alias gets no share.
        """
        if self.version_id is None:
            return  # the field says so
        if self.version.model_id != self.model_id:
            raise ValidationError({"version": _("The version is another model's.")})
        if self.percent and self.name not in {CANARY, SHADOW}:
            raise ValidationError({"percent": _("Only canary and shadow have a share.")})

    @property
    def share(self) -> int:
        """Return the percent as hundredths."""
        return int(self.percent * 100)


class RollOut(models.Model):
    """One version's way from a share of the users to all of them, or back."""

    class State(models.TextChoices):
        """How far it is."""

        RUNNING = "running", _("running")
        PROMOTED = "promoted", _("promoted")
        ABORTED = "aborted", _("aborted")
        ROLLED_BACK = "rolled_back", _("rolled back")

    model = models.ForeignKey(
        "serving_app.ServedModel",
        on_delete=models.CASCADE,
        related_name="roll_outs",
        verbose_name=_("model"),
    )
    candidate = models.ForeignKey(
        "serving_app.ModelVersion",
        on_delete=models.CASCADE,
        related_name="+",
        verbose_name=_("candidate"),
    )
    production = models.ForeignKey(
        "serving_app.ModelVersion",
        on_delete=models.CASCADE,
        related_name="+",
        verbose_name=_("production"),
        help_text=_("The version that the candidate is compared with."),
    )
    percents = models.JSONField(
        _("steps"),
        default=list,
        help_text=_("The canary's shares in percent, one after the other."),
    )
    step_seconds = models.FloatField(
        _("seconds a step"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1.0)],
        help_text=_(
            "After so long without evidence against it the candidate gets its next share, and is "
            "promoted after the last; empty: only by hand."
        ),
    )
    state = models.CharField(
        _("state"), max_length=16, choices=State.choices, default=State.RUNNING
    )
    started = models.DateTimeField(_("started"), auto_now_add=True)
    stepped = models.DateTimeField(_("last step"))
    ended = models.DateTimeField(_("ended"), null=True, blank=True)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("by"),
    )
    evidence = models.JSONField(_("evidence"), default=dict, editable=False)
    turn = models.PositiveBigIntegerField(default=0, editable=False)
    """Goes up with each evaluation: of two processes, one's write of it finds the old number."""
    evaluated = models.DateTimeField(_("evaluated"), null=True, editable=False)

    class Meta:
        """Names, order, and one running roll-out per model."""

        verbose_name = _("roll-out")
        verbose_name_plural = _("roll-outs")
        ordering = ("-started", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("model",),
                condition=models.Q(state="running"),
                name="one_running_roll_out",
            ),
        )

    def __str__(self) -> str:
        return f"{self.candidate} ({self.get_state_display()})"

    @property
    def percent(self) -> Decimal:
        """Return the canary's present share; 0 once the roll-out has ended."""
        if self.state != self.State.RUNNING:
            return Decimal(0)
        aliases = self.model.aliases.all()
        return next((alias.percent for alias in aliases if alias.name == CANARY), Decimal(0))


class RollOutStep(models.Model):
    """One thing that happened to a roll-out. It never changes."""

    class Action(models.TextChoices):
        """What happened."""

        STARTED = "started", _("started")
        RAISED = "raised", _("share changed")
        PROMOTED = "promoted", _("promoted")
        ABORTED = "aborted", _("aborted")
        ROLLED_BACK = "rolled_back", _("rolled back")

    roll_out = models.ForeignKey(
        RollOut, on_delete=models.CASCADE, related_name="steps", verbose_name=_("roll-out")
    )
    at = models.DateTimeField(_("at"), auto_now_add=True)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("by"),
        help_text=_("Empty: it happened by itself."),
    )
    action = models.CharField(_("action"), max_length=16, choices=Action.choices)
    percent = percent_field(_("percent"), _("The canary's share from then on."))
    reason = models.TextField(_("reason"), blank=True)
    figures = models.JSONField(_("figures"), default=dict, blank=True)

    class Meta:
        """Names and order."""

        verbose_name = _("step")
        verbose_name_plural = _("steps")
        ordering = ("-at", "-pk")

    def __str__(self) -> str:
        return f"{self.get_action_display()} at {self.at:%Y-%m-%d %H:%M:%S}"


ALIASES = (PRODUCTION, CANARY, SHADOW)
"""The aliases with a meaning of their own."""
