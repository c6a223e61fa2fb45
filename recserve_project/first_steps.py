"""What to do first: a list on the admin's first page that ticks itself off."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.contrib.admin import AdminSite
from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from serving_app.access_models import ServiceToken
from serving_app.activity_models import ActivityCount
from serving_app.core.live_models import PRODUCTION
from serving_app.models import Alias, ModelVersion, ProcessStatistics, ServedModel

__all__ = ["Step", "first_steps"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    title: str
    text: str
    done: bool
    link: str = ""
    """Where to do it; empty: elsewhere, or this person may not."""
    action: str = ""
    """What the link is called."""
    command: str = ""
    """What to type in a shell instead, or as well."""


def first_steps(request: HttpRequest, admin_site: AdminSite) -> list[Step]:
    """Return the steps; none for people who may not operate, or when all are done."""
    if not request.user.has_perm("serving_app.operate"):
        return []
    steps = [_model(), _version(), _live(), _token(), _call(request), *_schedule(admin_site)]
    if all(step.done for step in steps):
        return []
    return [_permitted(step, request, admin_site) for step in steps]


def _permitted(step: Step, request: HttpRequest, admin_site: AdminSite) -> Step:
    """Return a step without its link if it leads to a form that the person may not fill in."""
    form = _FORMS.get(step.link)
    if form is None:
        return step
    model_admin = admin_site.get_model_admin(form)
    if model_admin.has_add_permission(request):
        return step
    return Step(step.title, step.text, step.done, command=step.command)


_FORMS: dict[str, Any] = {}
"""The models whose forms steps lead to, by their links."""


def _form(model: Any) -> str:
    link = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_add")  # noqa: SLF001  (Django's)
    _FORMS[link] = model
    return link


def _model() -> Step:
    return Step(
        _("Name a model"),
        _("The name by which clients ask; “default” answers those who give none."),
        ServedModel.objects.exists(),
        _form(ServedModel),
        _("Add a model"),
        "python manage.py demo   # " + _("or begin with a trained example"),
    )


def _version() -> Step:
    return Step(
        _("Register a version"),
        _("Upload a trained model and its list of items. It is loaded and tried before it counts."),
        ModelVersion.objects.exists(),
        _form(ModelVersion),
        _("Register a version"),
    )


def _live() -> Step:
    return Step(
        _("Make it live"),
        _("In Versions, choose it, and the action “Make live”."),
        Alias.objects.filter(name=PRODUCTION).exists(),
        reverse("admin:serving_app_modelversion_changelist"),
        _("Versions"),
    )


def _token() -> Step:
    now = timezone.now()
    valid = Q(revoked__isnull=True) & (Q(expires__isnull=True) | Q(expires__gt=now))
    return Step(
        _("Get a token"),
        _("Programs ask with a service token. Its text is shown once."),
        ServiceToken.objects.filter(valid).exists(),
        _form(ServiceToken),
        _("Add a service token"),
        "python manage.py createtoken shop",
    )


def _call(request: HttpRequest) -> Step:
    return Step(
        _("Make a call"),
        _("With the token in TOKEN; the dashboard shows it seconds later."),
        ActivityCount.objects.filter(kind="request").exists() or _somebody_asked(),
        reverse("admin:dashboard"),
        _("Dashboard"),
        _curl(request),
    )


def _somebody_asked() -> bool:
    told = ProcessStatistics.objects.values_list("serving", flat=True)
    return any(
        stats.get("requests", 0)
        for serving in told
        if isinstance(serving, dict)
        for stats in serving.get("models", {}).values()
    )


def _curl(request: HttpRequest) -> str:
    """Return a command that asks the first model that is live, with features if it needs some."""
    alias = (
        Alias.objects.filter(name=PRODUCTION)
        .select_related("version__model")
        .order_by("version__model__name")
        .first()
    )
    question: dict[str, Any] = {"user_id": "1"}
    if alias is not None:
        version = alias.version
        if version.model.name != "default":
            question["model_name"] = version.model.name
        if not version.feature_source:
            question["features"] = dict.fromkeys(version.feature_names, 1.0)
    url = request.build_absolute_uri(reverse("predict"))
    return (
        f'curl -s {url} -H "Authorization: Bearer $TOKEN" \\\n'
        f"  -H \"Content-Type: application/json\" -d '{json.dumps(question)}'"
    )


def _schedule(admin_site: AdminSite) -> list[Step]:
    """Return the step of warm-up schedules, where there are such."""
    try:
        schedules: Any = apps.get_app_config("serving_app").get_model("WarmupSchedule")
    except LookupError:
        return []
    if not admin_site.is_registered(schedules):
        return []
    return [
        Step(
            _("Add a schedule"),
            _("Compute answers before they are asked for, when there is time for that."),
            schedules.objects.exists(),
            _form(schedules),
            _("Add a schedule"),
        )
    ]
