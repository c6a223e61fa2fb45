"""Warm-up runs in the admin: how far they are, what became of them, what they earned."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from serving_app import warmup_chart, warmup_runs
from serving_app.warmup_models import WarmupRun, WarmupSchedule

__all__ = ["WarmupRunAdmin", "operates", "seconds_of", "share_of"]


_LONGEST = 1000
"""Characters of a run's strategies that are shown."""


def operates(request: HttpRequest) -> bool:
    """Return whether the user may run and stop what there is."""
    return request.user.has_perm("serving_app.operate")


def share_of(row: WarmupSchedule | WarmupRun) -> str:
    """Return which part of what was warmed was asked for."""
    return "—" if row.hit_share is None else f"{100 * row.hit_share:.1f} %"


def seconds_of(value: float | None) -> str:
    """Return seconds, for people."""
    return "—" if value is None else f"{value:.2f} s"


@admin.register(WarmupRun)
class WarmupRunAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Runs: how far they are, what became of their questions, what they earned."""

    list_display = (
        *("__str__", "state", "bar", "candidates", "warmed", "fresh", "refused", "errors"),
        *("took", "earned", "share", "spent", "saved"),
    )
    list_filter = ("state", "by_clock", "schedule")
    list_select_related = ("schedule",)
    search_fields = ("=model", "=schedule__name")
    actions = ("stop_runs",)
    fields = readonly_fields = (
        *("schedule", "model", "alias", "how", "budget", "batch_size", "rate", "time_zone"),
        *("requested", "by", "by_clock", "started", "ended", "runner", "seen", "takeovers"),
        "message",
    )
    change_form_outer_before_template = "admin/serving_app/warmup_run.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[WarmupRun]:
        """Return the runs without their strategies, which may be long lists, until one is shown."""
        rows: QuerySet[WarmupRun] = super().get_queryset(request)
        return rows.defer("strategies")

    @admin.display(description=_("progress"))
    def bar(self, run: WarmupRun) -> SafeString:
        """Return how far it is."""
        return warmup_chart.progress_bar(run)

    @admin.display(description=_("took"))
    def took(self, run: WarmupRun) -> str:
        """Return how long it took by now."""
        return seconds_of(run.seconds)

    @admin.display(description=_("hit share"))
    def share(self, run: WarmupRun) -> str:
        """Return which part of what it warmed was asked for."""
        return share_of(run)

    @admin.display(description=_("spent"), ordering="model_seconds")
    def spent(self, run: WarmupRun) -> str:
        """Return the model's time that it cost."""
        return seconds_of(run.model_seconds)

    @admin.display(description=_("saved"), ordering="seconds_saved")
    def saved(self, run: WarmupRun) -> str:
        """Return the model's time that it saved."""
        return seconds_of(run.seconds_saved)

    @admin.display(description=_("strategies"))
    def how(self, run: WarmupRun) -> str:
        """Return its strategies."""
        text = "; ".join(
            f"{each['weight']:g} of {each['strategy']} {json.dumps(each['options'])}"
            for each in run.strategies
        )
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: schedules and the API start runs."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: its runner changes a run."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: it is history."""
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may stop a run."""
        return operates(request)

    @admin.action(description=_("Stop"), permissions=["operate"])
    def stop_runs(self, request: HttpRequest, queryset: QuerySet[WarmupRun]) -> None:
        """Stop the chosen runs."""
        stopped = sum(warmup_runs.stop(run) for run in queryset)
        self.message_user(request, _("%s runs stop.") % stopped)

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's URLs, and those of stopping, and of the progress."""
        view, name = self.admin_site.admin_view, "serving_app_warmuprun"
        return [
            path("<int:pk>/stop/", view(self.stop), name=f"{name}_stop"),
            path("<int:pk>/progress/", view(self.progress), name=f"{name}_progress"),
            *super().get_urls(),
        ]

    def stop(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Stop one run."""
        if request.method != "POST" or not operates(request):
            raise PermissionDenied
        if not warmup_runs.stop(get_object_or_404(WarmupRun, pk=pk)):
            self.message_user(request, _("It had ended already."), messages.WARNING)
        return HttpResponseRedirect(reverse("admin:serving_app_warmuprun_change", args=(pk,)))

    def progress(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Return how far one run is, for its page, which asks once a second."""
        run = get_object_or_404(WarmupRun.objects.defer("strategies"), pk=pk)
        if not self.has_view_permission(request, run):
            raise PermissionDenied
        return JsonResponse(_figures(run))

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Show the run, and how far it is."""
        context = dict(extra_context or {})
        if object_id is not None and object_id.isdecimal():
            run = WarmupRun.objects.select_related("schedule").filter(pk=int(object_id)).first()
            if run is not None:
                problems = run.questions.exclude(problem="").order_by("position")[:20]
                context |= {
                    "run": run,
                    "figures": _figures(run),
                    "problems": problems,
                    "operates": operates(request),
                }
        return super().changeform_view(request, object_id, form_url, context)


def _figures(run: WarmupRun) -> dict[str, Any]:
    """Return what a run's page shows while it goes on."""
    took = run.seconds
    alive = "" if run.seen is None or not run.active else _alive(run)
    return {
        "active": run.active,
        "state": str(run.get_state_display()),
        "percent": round(100 * run.progress, 1),
        "summary": str(
            _("%(done)s of %(all)s questions") % {"done": run.done, "all": run.candidates}
        ),
        "took": seconds_of(took),
        "alive": alive,
        "parts": [
            {"name": name, "count": n, "colour": colour, "percent": round(percent, 2)}
            for name, n, colour, percent in warmup_chart.parts(run)
        ],
        "benefit": str(
            _(
                "%(earned)s hits earned (%(share)s); of the model's time, %(spent)s spent and "
                "%(saved)s saved"
            )
            % {
                "earned": run.earned,
                "share": share_of(run),
                "spent": seconds_of(run.model_seconds),
                "saved": seconds_of(run.seconds_saved),
            }
        ),
        "message": run.message,
    }


def _alive(run: WarmupRun) -> str:
    assert run.seen is not None, "asked of runs that have a runner"
    age = (timezone.now() - run.seen).total_seconds()
    return str(_("%(runner)s, seen %(age).0f s ago") % {"runner": run.runner, "age": age})
