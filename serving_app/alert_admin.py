"""Alerts in the admin: rules with a try on the past, what became of them, silences, channels."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from plugins.apps import get_registry
from serving_app import alerts
from serving_app.alert_channels import send
from serving_app.alert_models import (
    Alert,
    AlertChannel,
    AlertDelivery,
    AlertEvent,
    AlertRule,
    AlertSilence,
)
from serving_app.core.rollup_metrics import METRICS
from serving_app.release_admin import ReadOnlyInline, user_of

__all__ = [
    "AlertAdmin",
    "AlertChannelAdmin",
    "AlertDeliveryAdmin",
    "AlertRuleAdmin",
    "AlertSilenceAdmin",
]

_HOURS = {"6": _("6 hours"), "24": _("a day"), "168": _("a week")}


class AlertRuleForm(ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """A rule, with the metrics that there are."""

    metric = forms.ChoiceField(
        choices=[(name, f"{name}: {metric.help}") for name, metric in sorted(METRICS.items())],
        widget=theme.UnfoldAdminSelectWidget,
    )


@admin.register(AlertRule)
class AlertRuleAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Rules."""

    form = AlertRuleForm
    list_display = ("name", "severity", "condition_in_words", "enabled", "state", "try_it")
    list_filter = ("severity", "enabled", "kind")
    search_fields = ("name", "description", "metric")
    autocomplete_fields = ("channels",)
    actions = ("enable", "disable")
    fieldsets = (
        (None, {"fields": ("name", "description", "severity", "enabled")}),
        (_("What is looked at"), {"fields": ("metric", "model", "segment", "level", "window")}),
        (
            _("When it is bad"),
            {"fields": ("kind", "above", "threshold", "clear", "hold", "calm", "least")},
        ),
        (_("Who is told"), {"fields": ("channels",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertRule]:
        """Return the rules, with their open alerts."""
        rows: QuerySet[AlertRule] = super().get_queryset(request)
        return rows.prefetch_related("alerts")

    def get_urls(self) -> list[URLPattern]:
        """Add the page that tries a rule on the past."""
        view = self.admin_site.admin_view(self.preview)
        name = "serving_app_alertrule_preview"
        urls: list[URLPattern] = super().get_urls()
        return [path("<int:pk>/preview/", view, name=name), *urls]

    @admin.display(description=_("is bad when"))
    def condition_in_words(self, rule: AlertRule) -> str:
        """Return the condition as a sentence would have it."""
        labels = "".join(f" {label}" for label in rule.labels().values())
        if rule.kind == AlertRule.Kind.ABSENCE:
            return f"no {rule.metric}{labels} in {rule.window} s"
        than = "above" if rule.above else "below"
        change = " changed from yesterday" if rule.kind == AlertRule.Kind.YESTERDAY else ""
        rate = " per second" if rule.kind == AlertRule.Kind.RATE else ""
        return f"{rule.metric}{labels}{change}{rate} {than} {rule.threshold:g} over {rule.window} s"

    @admin.display(description=_("now"))
    def state(self, rule: AlertRule) -> str:
        """Return whether it fires."""
        found = [alert for alert in rule.alerts.all() if alert.state in Alert.OPEN]
        return str(found[0].get_state_display()) if found else "-"

    @admin.display(description=_("the past"))
    def try_it(self, rule: AlertRule) -> str:
        """Return a link to when it would have fired."""
        url = reverse("admin:serving_app_alertrule_preview", args=[rule.pk])
        return format_html('<a class="underline" href="{}">{}</a>', url, _("Try it"))

    @admin.action(description=_("Enable"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[AlertRule]) -> None:
        """Let the rules be evaluated."""
        self._set(request, queryset, enabled=True)

    @admin.action(description=_("Disable"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[AlertRule]) -> None:
        """Let the rules rest; their alerts are resolved."""
        self._set(request, queryset, enabled=False)

    def _set(self, request: HttpRequest, rules: QuerySet[AlertRule], *, enabled: bool) -> None:
        for rule in rules:
            rule.enabled = enabled
            rule.save(update_fields=["enabled", "changed"])
            self.log_change(request, rule, "Enabled" if enabled else "Disabled")

    def preview(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show when a rule would have fired."""
        rule = get_object_or_404(AlertRule, pk=pk)
        if not self.has_view_permission(request, rule):
            raise PermissionDenied
        hours = request.GET.get("hours", "24")
        hours = hours if hours in _HOURS else "24"
        now, zone = time.time(), timezone.get_current_timezone()
        found = alerts.preview(rule, now - 3600 * int(hours), now)

        def moment(at: float | None) -> datetime | None:
            return None if at is None else datetime.fromtimestamp(at, zone)

        # One point in a hundredth of the period: the worst, so that none that fires is hidden.
        every = max(1, len(found.values) // 360)
        points = [
            _worst(rule, found.values[i : i + every]) for i in range(0, len(found.values), every)
        ]
        chart = {
            "labels": [f"{datetime.fromtimestamp(at, zone):%d %b %H:%M}" for at, _value in points],
            "datasets": [
                {
                    "label": rule.metric,
                    "borderColor": "var(--color-primary-600)",
                    "data": [value for _at, value in points],
                },
                {
                    "label": str(_("threshold")),
                    "borderColor": "#dc2626",
                    "data": [rule.threshold] * len(points),
                },
            ],
        }
        context = {
            **self.admin_site.each_context(request),
            "title": _("When would %(rule)s have fired?") % {"rule": rule.name},
            "rule": rule,
            "hours": hours,
            "choices": _HOURS,
            "episodes": [
                (moment(e.started), moment(e.fired), moment(e.resolved)) for e in found.episodes
            ],
            "known": sum(value is not None for _at, value in found.values),
            "looks": len(found.values),
            "chart": json.dumps(chart),
        }
        return TemplateResponse(request, "admin/serving_app/alert_preview.html", context)


def _worst(rule: AlertRule, values: list[tuple[float, float | None]]) -> tuple[float, float | None]:
    known = [(at, value) for at, value in values if value is not None]
    if not known:
        return values[0]
    worst = max if rule.above and rule.kind != AlertRule.Kind.ABSENCE else min
    return worst(known, key=lambda each: each[1])


class AlertEventInline(ReadOnlyInline):
    """What happened."""

    model = AlertEvent
    fields = readonly_fields = ("at", "state", "value")
    show_change_link = False


class AlertDeliveryInline(ReadOnlyInline):
    """Who was told."""

    model = AlertDelivery
    fields = readonly_fields = ("channel", "state", "made", "tries", "due", "problem")
    show_change_link = False


class _Seen(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Rows that serving processes write."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: they come by themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: they say what happened."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: they go by themselves."""
        return False


@admin.register(Alert)
class AlertAdmin(_Seen):
    """What rules found."""

    list_display = ("rule", "state", "severity", "started", "fired", "resolved", "in_words")
    fields = ("rule", "in_words", "state", "severity", "started", "fired", "resolved", "notified")
    readonly_fields = ("in_words",)
    list_filter = ("state", "severity", "rule")
    list_select_related = ("rule",)
    search_fields = ("rule__name",)
    inlines = (AlertEventInline, AlertDeliveryInline)

    @admin.display(description=_("as of the last look"))
    def in_words(self, alert: Alert) -> str:
        """Return what the alert is about."""
        return alerts.say(alert.rule, alert.state, alert.value)


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(_Seen):
    """Notices, and what became of them."""

    list_display = ("made", "alert", "channel", "state", "tries", "due", "problem")
    list_filter = ("state", "channel")
    list_select_related = ("alert__rule", "channel")
    actions = ("again",)

    def has_again_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may let notices be sent again."""
        return request.user.has_perm("serving_app.change_alertdelivery")

    @admin.action(description=_("Try again now"), permissions=["again"])
    def again(self, request: HttpRequest, queryset: QuerySet[AlertDelivery]) -> None:
        """Send the notices that were not taken once more."""
        rows = queryset.exclude(state=AlertDelivery.State.SENT)
        n = rows.update(state=AlertDelivery.State.WAITING, due=timezone.now(), made=timezone.now())
        self.message_user(request, _("%d notices are tried again.") % n)


@admin.register(AlertSilence)
class AlertSilenceAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Silences."""

    list_display = ("reason", "rule", "model", "severity", "starts", "ends", "by")
    list_filter = ("severity",)
    list_select_related = ("rule", "by")
    search_fields = ("reason", "rule__name")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save it, by the user."""
        if not change:
            obj.by = user_of(request)
        super().save_model(request, obj, form, change)


class AlertChannelForm(ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """A channel, of a kind that there is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "kind" not in self.fields:
            return  # it is only shown
        channels = get_registry().alert_channels
        kinds = [channels.get(name) for name in channels.names()]
        self.fields["kind"] = forms.ChoiceField(
            choices=[(kind.name, f"{kind.name}: {kind.summary}") for kind in kinds],
            widget=theme.UnfoldAdminSelectWidget,
        )
        options = "; ".join(
            f"{kind.name}: {', '.join(map(str, kind.options)) or 'none'}" for kind in kinds
        )
        self.fields["options"].help_text = options


@admin.register(AlertChannel)
class AlertChannelAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Channels."""

    form = AlertChannelForm
    list_display = ("name", "kind", "enabled", "waiting")
    list_filter = ("kind", "enabled")
    search_fields = ("name",)
    actions = ("test",)

    @admin.display(description=_("notices that wait"))
    def waiting(self, channel: AlertChannel) -> int:
        """Return how many notices it has not taken yet."""
        return channel.deliveries.filter(state=AlertDelivery.State.WAITING).count()

    @admin.action(description=_("Send a test notice"), permissions=["change"])
    def test(self, request: HttpRequest, queryset: QuerySet[AlertChannel]) -> None:
        """Send a notice by each of the channels, and say what came of it."""
        now = time.time()
        notice = {
            "id": f"test-{int(now)}",
            "rule": "Test",
            "state": "resolved",
            "severity": "info",
            "summary": "This is a test of the channel.",
            "at": now,
            "started": now,
        }
        for channel in queryset:
            try:
                send(channel, notice)
            except Exception as error:  # noqa: BLE001  (a plugin's)
                said = _("%(name)s did not take it: %(why)s") % {"name": channel, "why": error}
                self.message_user(request, said, messages.ERROR)
            else:
                self.message_user(request, _("%s took it.") % channel)
