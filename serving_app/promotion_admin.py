"""Making a version live, and rolling back, in the admin: what changes is shown before it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from serving_app import promotion, wiring
from serving_app.models import ModelVersion, ServedModel
from serving_app.release_admin import user_of
from serving_app.version_differences import differences

__all__ = ["make_live", "roll_back"]

_FOLLOW_SECONDS = 30.0
"""How long the page waits for the version to go live in the process that answers."""


@admin.action(description=_("Make live"), permissions=["administer"])
def make_live(
    owner: Any, request: HttpRequest, queryset: QuerySet[ModelVersion]
) -> TemplateResponse | None:
    """Make the chosen version live, once that is confirmed."""
    versions = list(queryset.select_related("model"))
    if len({version.model_id for version in versions}) != len(versions):
        owner.message_user(request, _("Choose one version of a model."), messages.ERROR)
        return None
    steps = [(version.model, version) for version in versions]
    if not request.POST.get("confirmed"):
        return _asked(owner, request, _("Make live"), steps)

    def promoted(_model: ServedModel, version: ModelVersion) -> ModelVersion:
        promotion.promote(version, by=user_of(request))
        return version

    _carry_out(owner, request, steps, promoted)
    return None


@admin.action(
    description=_("Roll back to the version that was live before"), permissions=["administer"]
)
def roll_back(
    owner: Any, request: HttpRequest, queryset: QuerySet[ServedModel]
) -> TemplateResponse | None:
    """Undo the last promotion of each model, once that is confirmed."""
    steps = [(model, _before(model)) for model in queryset]
    if not request.POST.get("confirmed"):
        possible = [(model, version) for model, version in steps if version is not None]
        if possible:
            return _asked(owner, request, _("Roll back"), possible)

    def rolled_back(model: ServedModel, _version: ModelVersion | None) -> ModelVersion:
        return promotion.roll_back(model, by=user_of(request))

    _carry_out(owner, request, steps, rolled_back)
    return None


def _before(model: ServedModel) -> ModelVersion | None:
    """Return the version that rolling back would make live; None: there is none."""
    last = model.promotions.filter(rolled_back=None).select_related("replaced__model").first()
    return None if last is None else last.replaced


def _asked(
    owner: Any,
    request: HttpRequest,
    title: Any,
    steps: Sequence[tuple[ServedModel, ModelVersion]],
) -> TemplateResponse:
    """Return the page that shows what changes, and asks whether it shall."""
    return TemplateResponse(
        request,
        "admin/serving_app/confirm_step.html",
        {
            **owner.admin_site.each_context(request),
            "title": f"{title}: {', '.join(str(version) for _, version in steps)}",
            "opts": owner.opts,
            "what": _("What"),
            "changes": [
                change
                for model, version in steps
                for change in differences(model.live_version, version)
            ],
            "form": forms.Form(),
            "action": request.POST.get("action", ""),
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "checkbox": ACTION_CHECKBOX_NAME,
        },
    )


def _carry_out(
    owner: Any,
    request: HttpRequest,
    steps: Sequence[tuple[ServedModel, Any]],
    act: Callable[[ServedModel, Any], ModelVersion],
) -> None:
    """Do it for each model, and say whether what should be live is live here."""
    for model, version in steps:
        try:
            live = act(model, version)
        except ValidationError as error:
            owner.message_user(request, " ".join(error.messages), messages.ERROR)
            continue
        reconciler = wiring.get_serving().reconciler
        if reconciler.follow(live.model.name, live.number, _FOLLOW_SECONDS):
            owner.message_user(request, _("%(v)s is live.") % {"v": live}, messages.SUCCESS)
            continue
        owner.message_user(
            request,
            _("%(v)s will be live as soon as it is loaded; see Activations.") % {"v": live},
            messages.WARNING,
        )
