"""Segments in the database: rules and terms, who belongs to them, and how far that is known."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Sum
from django.utils.translation import gettext_lazy as _

from cache_app.conf import cache_settings
from plugins import InvalidOptions, PluginError, UnknownPlugin, UserId
from plugins.apps import get_registry
from serving_app.activity_conf import activity_settings
from serving_app.core.live_models import CANARY, SHADOW
from serving_app.core.segment_rules import COMPARISONS, DAY, FIELDS, Condition, Rule
from serving_app.core.segment_table import EVERYONE
from serving_app.drift_conf import drift_settings
from serving_app.leased_row import LeasedRow
from serving_app.release_models import Alias

__all__ = ["Segment", "SegmentCondition", "SegmentEvaluation", "SegmentMember"]

MOST_SHARED = 0.9
"""Of L1 that all segments may have together; the rest is everybody else's."""
LEAST_TTL = 1.0
MOST_SEGMENTS = 50
"""Each is a label in the metrics, and a rule that every user is compared with."""

SEGMENT_NAME = RegexValidator(
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}\Z",
    _(
        "A segment's name has 1 to 50 letters, digits, dots, dashes or underscores, and begins "
        "with a letter or digit."
    ),
)


class Segment(models.Model):
    """A group of users that is chosen by a rule, and cached and counted together."""

    name = models.CharField(
        _("name"),
        max_length=50,
        unique=True,
        validators=[SEGMENT_NAME],
        help_text=_("In cache keys, statistics and explanations."),
    )
    description = models.TextField(_("description"), blank=True)
    order = models.PositiveIntegerField(
        _("order"), default=100, help_text=_("The first segment whose rule holds takes the user.")
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    share = models.FloatField(
        _("share of L1"),
        null=True,
        blank=True,
        help_text=_("Part of L1, as in 0.25, for this segment alone; empty: it shares the rest."),
    )
    policy = models.CharField(
        _("eviction policy"),
        max_length=100,
        blank=True,
        help_text=_("Of its share; empty: L1's. manage.py plugins lists those there are."),
    )
    policy_options = models.JSONField(_("policy options"), default=dict, blank=True)
    ttl = models.FloatField(
        _("TTL (s)"),
        null=True,
        blank=True,
        validators=[MinValueValidator(LEAST_TTL)],
        help_text=_("Seconds that its answers are fresh; empty: as everyone's."),
    )
    drift_rule = models.CharField(
        _("drift rule"),
        max_length=100,
        blank=True,
        help_text=_("When preferences have changed, of its users; empty: as everyone's."),
    )
    drift_options = models.JSONField(
        _("drift options"),
        default=dict,
        blank=True,
        help_text=_('Such as {"refresh_at": 0.4}; of the rule here, or else of everyone\'s.'),
    )
    alias = models.CharField(
        _("alias"),
        max_length=100,
        blank=True,
        help_text=_(
            "What answers its users if they ask for no alias, of models that have it; empty: as "
            "everyone."
        ),
    )
    created = models.DateTimeField(_("created"), auto_now_add=True)
    changed = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        """Names, and the order in which rules are asked."""

        verbose_name = _("segment")
        verbose_name_plural = _("segments")
        ordering = ("order", "name")

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Check what the fields mean.

        Raises:
            ValidationError: One is wrong by itself, with another, or with other segments.
        """
        problems: dict[str, Any] = {}
        if self.name == EVERYONE:
            problems["name"] = _("'%s' is the segment of everyone else.") % EVERYONE
        if self.name == "simulate":
            problems["name"] = _("'simulate' has another meaning in the API.")
        others = Segment.objects.exclude(pk=self.pk)
        if self.pk is None and others.count() >= MOST_SEGMENTS:
            problems["name"] = _("There are %d segments, which is as many as may be.") % (
                MOST_SEGMENTS
            )
        found = {
            "share": self._share_problem(others),
            "policy": self._policy_problem(),
            "policy_options": self._options_problem(),
            "ttl": self._ttl_problem(),
            "alias": self._alias_problem(),
            "drift_rule": self._drift_problem(),
            "drift_options": self._drift_options_problem(),
        }
        problems |= {field: problem for field, problem in found.items() if problem is not None}
        if problems:
            raise ValidationError(problems)

    def _share_problem(self, others: models.QuerySet[Segment]) -> Any:
        if self.share is None:
            return None
        if not 0.001 <= self.share <= MOST_SHARED:
            return _("A share is a number from 0.001 to %s.") % MOST_SHARED
        taken = others.filter(enabled=True).aggregate(all=Sum("share"))["all"] or 0.0
        if self.enabled and taken + self.share > MOST_SHARED + 1e-9:
            return _("The other segments have %(taken).3g of L1; all may have %(most)s.") % {
                "taken": taken,
                "most": MOST_SHARED,
            }
        return None

    def _policy_problem(self) -> Any:
        if not self.policy:
            return None
        if self.share is None:
            return _("Only a segment with a share of its own has a policy of its own.")
        try:
            get_registry().eviction_policies.get(self.policy)
        except UnknownPlugin as error:
            return str(error)
        return None

    def _options_problem(self) -> Any:
        if not isinstance(self.policy_options, dict):
            return _("Options are a JSON object.")
        if not self.policy:
            return _("There is no policy that would take them.") if self.policy_options else None
        try:
            get_registry().eviction_policies.create(self.policy, self.policy_options)
        except UnknownPlugin:
            return None  # said of the policy
        except (InvalidOptions, PluginError) as error:
            return str(error)
        return None

    def _ttl_problem(self) -> Any:
        longest = cache_settings().longest_ttl
        if self.ttl is None or self.ttl <= longest:
            return None
        return _(
            "At most %g: invalidations are not remembered for longer. "
            'RECSERVE["CACHE"]["MAX_TTL"] sets it.'
        ) % (longest)

    def _alias_problem(self) -> Any:
        if not self.alias:
            return None
        if self.alias in {CANARY, SHADOW}:
            return _("'%s' is a roll-out's; make an alias of your own.") % self.alias
        if not Alias.objects.filter(name=self.alias).exists():
            return _("No model has an alias '%s'.") % self.alias[:100]
        return None

    def _drift_problem(self) -> Any:
        if not self.drift_rule:
            return None
        try:
            get_registry().drift_rules.get(self.drift_rule)
        except UnknownPlugin as error:
            return str(error)
        return None

    def _drift_options_problem(self) -> Any:
        if not isinstance(self.drift_options, dict):
            return _("Options are a JSON object.")
        name = self.drift_rule or drift_settings().rule
        if name is None:
            return _("There is no rule that would take them.") if self.drift_options else None
        try:
            get_registry().drift_rules.create(name, self.drift_options)
        except UnknownPlugin:
            return None  # said of the rule, or of the settings
        except (InvalidOptions, PluginError) as error:
            return str(error)
        return None

    def rule(self) -> Rule:
        """Return whom it takes.

        Raises:
            ValueError: A condition came into the database unchecked, and is none.
        """
        assert self.pk is not None, "it is saved"
        return Rule(self.pk, tuple(each.condition() for each in self.conditions.all()))

    @property
    def described(self) -> str:
        """The rule in words."""
        return "; ".join(map(str, self.conditions.all())) or str(_("everyone who is known"))


class SegmentCondition(models.Model):
    """One comparison of a segment's rule; all of them must hold."""

    segment = models.ForeignKey(
        Segment, on_delete=models.CASCADE, related_name="conditions", verbose_name=_("segment")
    )
    field = models.CharField(
        _("field"), max_length=32, choices=[(name, each.label) for name, each in FIELDS.items()]
    )
    comparison = models.CharField(
        _("comparison"),
        max_length=2,
        choices=[(name, sign) for name, (sign, _meaning) in COMPARISONS.items()],
    )
    value = models.FloatField(_("value"))
    window_days = models.FloatField(
        _("window (days)"),
        null=True,
        blank=True,
        help_text=_("Back from now, by the hour; empty: all activity that is kept."),
    )

    class Meta:
        """Names and order."""

        verbose_name = _("condition")
        verbose_name_plural = _("conditions")
        ordering = ("pk",)

    def __str__(self) -> str:
        try:
            return str(self.condition())
        except (ValueError, TypeError):
            return str(_("a condition that cannot be read"))

    def condition(self) -> Condition:
        """Return what it says.

        Raises:
            ValueError: It says nothing that could hold.
        """
        window = None if self.window_days is None else self.window_days * DAY
        return Condition(self.field, self.comparison, self.value, window)

    def clean(self) -> None:
        """Check that it means something, of activity that is kept.

        Raises:
            ValidationError: It does not.
        """
        if self.value is None or not self.field or not self.comparison:
            return  # the fields say so
        try:
            self.condition()
        except ValueError as error:
            raise ValidationError(str(error)) from error
        settings = activity_settings()
        kept = settings.event_days if FIELDS[self.field].of_events else settings.days
        if self.window_days is not None and self.window_days > kept:
            raise ValidationError(
                {"window_days": _("At most %g: older activity is not kept.") % kept}
            )


class SegmentMember(models.Model):
    """A user that is known, and the segment it is in; none: everybody's."""

    user = models.CharField(_("user"), max_length=256)
    user_is_number = models.BooleanField(
        _("user is a number"), default=False, help_text=_("1 and '1' are two users.")
    )
    segment = models.ForeignKey(
        Segment,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="members",
        verbose_name=_("segment"),
    )
    since = models.DateTimeField(_("since"))
    first_seen = models.DateTimeField(
        _("first seen"), null=True, blank=True, help_text=_("Empty: it is to be looked at yet.")
    )
    last_seen = models.DateTimeField(_("last seen"), null=True, blank=True)
    due = models.DateTimeField(
        _("due"), null=True, blank=True, help_text=_("When its segment is to be decided anew.")
    )
    edited = models.BigIntegerField(
        default=-1, editable=False, help_text=_("The state of the rules it was decided by.")
    )
    turn = models.BigIntegerField(
        default=0, editable=False, help_text=_("The number of the change that brought it here.")
    )

    class Meta:
        """Names, order, and what is searched."""

        verbose_name = _("member")
        verbose_name_plural = _("members")
        ordering = ("-last_seen", "-pk")
        constraints = (
            models.UniqueConstraint(fields=("user", "user_is_number"), name="unique_member"),
        )
        indexes = (
            models.Index(fields=("turn",), name="member_by_turn"),
            models.Index(fields=("due",), name="member_by_due"),
            models.Index(fields=("edited",), name="member_by_edited"),
            models.Index(fields=("last_seen",), name="member_by_last_seen"),
        )

    def __str__(self) -> str:
        return f"{self.user}: {self.segment or EVERYONE}"

    @property
    def user_id(self) -> UserId:
        """The user as it asks."""
        return int(self.user) if self.user_is_number else self.user


class SegmentEvaluation(LeasedRow):
    """How far the evaluation of rules is, and which process does it. One row."""

    edited = models.BigIntegerField(default=0, help_text=_("Counts changes of rules and terms."))
    turn = models.BigIntegerField(default=0, help_text=_("Counts changes of members."))
    event = models.BigIntegerField(default=0, help_text=_("The last event that was looked at."))
    looked = models.DateTimeField(
        _("looked"), null=True, blank=True, help_text=_("Until when requests were looked at.")
    )

    class Meta:
        """Names."""

        verbose_name = _("evaluation of segments")
        verbose_name_plural = _("evaluations of segments")

    def __str__(self) -> str:
        return f"edit {self.edited}, turn {self.turn}"

    @classmethod
    def edit(cls) -> None:
        """Take note that rules or terms have changed."""
        cls.row()
        cls.objects.filter(pk=1).update(edited=models.F("edited") + 1)
