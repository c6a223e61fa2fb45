"""Warm-up schedules in the admin: strategies, run now, dry run, stop."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from plugins import RecserveError
from plugins.apps import get_registry
from serving_app import warmup_chart, warmup_runs, wiring
from serving_app.release_admin import user_of
from serving_app.warmup_models import ScheduledStrategy, WarmupRun, WarmupSchedule
from serving_app.warmup_run_admin import operates, seconds_of, share_of

__all__ = ["WarmupScheduleAdmin"]

_SHOWN = 200
"""The most questions that a dry run's page shows."""
_CHARTED = 30


class StrategyForm(forms.ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """One strategy, out of those that there are."""

    strategy = forms.ChoiceField(label=_("Strategy"), widget=theme.UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = sorted(get_registry().warmup_strategies.names(), key=_popular_first)
        if self.instance.pk and self.instance.strategy not in names:
            names.append(self.instance.strategy)  # of a plugin that is gone; saving says so
        self.fields["strategy"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]
        self.fields["options"].widget.attrs["rows"] = 3


def _popular_first(name: str) -> tuple[bool, str]:
    """Order strategies: who adds one and chooses nothing gets the one that suits most."""
    return name != "popular", name


class StrategyInline(theme.TabularInline):  # type: ignore[misc]  # theme has no types
    """The strategies of a schedule."""

    model = ScheduledStrategy
    form = StrategyForm
    fields = ("strategy", "weight", "options")
    extra = 0
    min_num = 1
    hide_title = True

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """Return formsets that want at least one."""
        return super().get_formset(request, obj, validate_min=True, **kwargs)


@admin.register(WarmupSchedule)
class WarmupScheduleAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """What is warmed, and when; run now, dry run, stop."""

    list_display = (
        *("name", "model", "when", "enabled", "next_due", "running"),
        *("warmed", "earned", "share", "spent", "saved", "dry_run_link"),
    )
    list_filter = ("enabled", "model")
    list_select_related = ("model",)
    search_fields = ("name",)
    inlines = (StrategyInline,)
    actions = ("run_now", "stop_runs")
    readonly_fields = ("next_due", "benefit")
    fieldsets = (
        (None, {"fields": ("name", "model", "alias", "enabled")}),
        (_("When"), {"fields": ("cron", "interval", "time_zone", "next_due")}),
        (_("How"), {"fields": ("budget", "batch_size", "rate")}),
        (_("Benefit"), {"fields": ("benefit",)}),
    )
    change_form_outer_before_template = "admin/serving_app/warmup_schedule.html"
    change_form_after_template = "admin/serving_app/warmup_strategies.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[WarmupSchedule]:
        """Return the schedules with what the list shows of them."""
        rows: QuerySet[WarmupSchedule] = super().get_queryset(request)
        active = WarmupRun.objects.filter(state__in=WarmupRun.ACTIVE).defer("strategies")
        return rows.prefetch_related(Prefetch("runs", active, to_attr="active_runs"))

    @admin.display(description=_("when"))
    def when(self, schedule: WarmupSchedule) -> str:
        """Return when it is due, in few words."""
        if schedule.cron:
            return f"{schedule.cron} {schedule.time_zone}"
        return "—" if schedule.interval is None else _("every %g s") % schedule.interval

    @admin.display(description=_("run"))
    def running(self, schedule: Any) -> str | SafeString:
        """Return how far its run is, if there is one."""
        run = next(iter(schedule.active_runs), None)
        if run is None:
            return "—"
        url = reverse("admin:serving_app_warmuprun_change", args=(run.pk,))
        return format_html('<a href="{}">{}</a>', url, warmup_chart.progress_bar(run))

    @admin.display(description=_("hit share"))
    def share(self, schedule: WarmupSchedule) -> str:
        """Return which part of what it warmed was asked for."""
        return share_of(schedule)

    @admin.display(description=_("spent"), ordering="model_seconds")
    def spent(self, schedule: WarmupSchedule) -> str:
        """Return the model's time that it cost."""
        return seconds_of(schedule.model_seconds)

    @admin.display(description=_("saved"), ordering="seconds_saved")
    def saved(self, schedule: WarmupSchedule) -> str:
        """Return the model's time that it saved."""
        return seconds_of(schedule.seconds_saved)

    @admin.display(description=_("benefit"))
    def benefit(self, schedule: WarmupSchedule) -> str:
        """Return what all its runs warmed and earned."""
        if schedule.pk is None:
            return "—"
        return _(
            "%(warmed)s warmed, %(earned)s hits earned (%(share)s); of the model's time, "
            "%(spent)s spent and %(saved)s saved"
        ) % {
            "warmed": schedule.warmed,
            "earned": schedule.earned,
            "share": share_of(schedule),
            "spent": seconds_of(schedule.model_seconds),
            "saved": seconds_of(schedule.seconds_saved),
        }

    @admin.display(description="")
    def dry_run_link(self, schedule: WarmupSchedule) -> SafeString:
        """Return a link to who would be warmed."""
        url = reverse("admin:serving_app_warmupschedule_dry_run", args=(schedule.pk,))
        return format_html(
            '<a class="text-primary-600 font-medium" href="{}">{}</a>', url, _("Dry run")
        )

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may run what there is."""
        return operates(request)

    @admin.action(description=_("Run now"), permissions=["operate"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[WarmupSchedule]) -> None:
        """Ask for a run of each chosen schedule."""
        for schedule in queryset:
            self._start(request, schedule)

    @admin.action(description=_("Stop"), permissions=["operate"])
    def stop_runs(self, request: HttpRequest, queryset: QuerySet[WarmupSchedule]) -> None:
        """Stop the runs of the chosen schedules."""
        for schedule in queryset:
            run = schedule.runs.filter(state__in=WarmupRun.ACTIVE).first()
            if run is None or not warmup_runs.stop(run):
                self.message_user(
                    request, _("No run of %s waits or runs.") % schedule, messages.WARNING
                )
            else:
                self.message_user(request, _("%s stops.") % schedule)

    def _start(self, request: HttpRequest, schedule: WarmupSchedule) -> WarmupRun | None:
        try:
            run = warmup_runs.request_run(warmup_runs.run_of(schedule), by=user_of(request))
        except ValidationError as error:
            self.message_user(request, f"{schedule}: {' '.join(error.messages)}", messages.ERROR)
            return None
        self.message_user(request, _("%s runs as soon as a process takes it.") % schedule)
        return run

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's URLs, and those of running now and of the dry run."""
        view, name = self.admin_site.admin_view, "serving_app_warmupschedule"
        return [
            path("<int:pk>/run/", view(self.run), name=f"{name}_run"),
            path("<int:pk>/dry-run/", view(self.dry_run), name=f"{name}_dry_run"),
            *super().get_urls(),
        ]

    def run(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Run one schedule now, and show the run."""
        if request.method != "POST" or not operates(request):
            raise PermissionDenied
        schedule = get_object_or_404(WarmupSchedule, pk=pk)
        run = self._start(request, schedule)
        if run is None:
            return HttpResponseRedirect(
                reverse("admin:serving_app_warmupschedule_change", args=(pk,))
            )
        return HttpResponseRedirect(reverse("admin:serving_app_warmuprun_change", args=(run.pk,)))

    def dry_run(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show who would be warmed now, in order, and why. Nothing is warmed."""
        if not operates(request):
            raise PermissionDenied
        schedule = get_object_or_404(WarmupSchedule, pk=pk)
        runner = wiring.get_serving().warm_up.runner
        rows: list[dict[str, Any]] = []
        total = fresh = 0
        problem = ""
        try:
            for each, skipped in runner.dry_run(warmup_runs.run_of(schedule)):
                total += 1
                if total > _SHOWN:
                    continue
                fresh += skipped
                context = each.request.context
                rows.append(
                    {
                        "user": each.request.user_id,
                        "context": json.dumps(context, ensure_ascii=False) if context else "",
                        "score": each.score,
                        "reason": each.reason,
                        "fresh": skipped,
                    }
                )
        except ValidationError as error:
            problem = " ".join(error.messages)
        except RecserveError as error:
            problem = str(error)
        return TemplateResponse(
            request,
            "admin/serving_app/warmup_dry_run.html",
            {
                **self.admin_site.each_context(request),
                "title": _("Dry run of %s") % schedule,
                "opts": self.opts,
                "schedule": schedule,
                "rows": rows,
                "total": total,
                "fresh": fresh,
                "problem": problem,
            },
        )

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Show the form with the strategies that there are, and the last runs."""
        context = {**(extra_context or {}), "known_strategies": _known_strategies()}
        if object_id is not None and object_id.isdecimal():
            latest = WarmupRun.objects.filter(schedule=int(object_id)).defer("strategies")[
                :_CHARTED
            ]
            context["latest"] = latest[:5]
            context["chart"] = warmup_chart.runs(list(latest)[::-1])
            context["active"] = next((run for run in latest if run.active), None)
            context["operates"] = operates(request)
        return super().changeform_view(request, object_id, form_url, context)


def _known_strategies() -> list[dict[str, Any]]:
    registry = get_registry().warmup_strategies
    return [
        {
            "name": name,
            "summary": registry.get(name).summary,
            "options": [str(option) for option in registry.get(name).options],
        }
        for name in registry.names()
    ]
