"""Aliases and roll-outs in the admin. Each step shows what will change before it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from serving_app import promotion, rollout
from serving_app.core.live_models import CANARY, PRODUCTION
from serving_app.forms import pretty
from serving_app.models import Alias, ModelVersion, RollOut, RollOutStep

__all__ = ["AliasInline", "ReadOnlyInline", "RollOutInline", "start_roll_out", "user_of"]


class ReadOnlyInline(theme.TabularInline):  # type: ignore[misc]  # theme has no types
    """Rows that are only shown."""

    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: rows are made elsewhere."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: rows are made elsewhere."""
        return False


class AliasInline(ReadOnlyInline):
    """What answers for the model."""

    model = Alias
    fields = readonly_fields = ("name", "version", "percent", "changed")
    show_change_link = False
    tab = True


class RollOutInline(ReadOnlyInline):
    """The model's roll-outs."""

    model = RollOut
    fields = readonly_fields = ("candidate", "production", "state", "started", "ended", "by")
    tab = True


class StepInline(ReadOnlyInline):
    """What happened to the roll-out."""

    model = RollOutStep
    fields = readonly_fields = ("at", "action", "percent", "by", "reason")
    show_change_link = False


def user_of(request: HttpRequest) -> User:
    """Return the user; `admin_view` lets nobody else in."""
    assert isinstance(request.user, User), "admin_view lets nobody else in"
    return request.user


@dataclass(frozen=True, slots=True)
class Change:
    """One line of what a step changes."""

    what: str
    now: str
    then: str


def _changes(
    production: ModelVersion, candidate: ModelVersion, now: Decimal, then: Decimal
) -> list[Change]:
    """Return what changes for the users when the canary's share does; 100 % is not promoted."""
    return [
        Change(PRODUCTION, _share(production, 100 - now), _share(production, 100 - then)),
        Change(CANARY, _share(candidate, now), _share(candidate, then)),
    ]


def _share(version: ModelVersion, percent: Decimal) -> str:
    return f"{version}: {percent.normalize():f} % of the users" if percent else "—"


class StartForm(forms.Form):
    """How a roll-out shall go."""

    percents = forms.CharField(
        label=_("Steps"),
        initial="1, 5, 25, 50",
        widget=theme.UnfoldAdminTextInputWidget,
        help_text=_("The canary's shares in percent, one after the other."),
    )
    step_seconds = forms.FloatField(
        label=_("Seconds a step"),
        required=False,
        validators=[MinValueValidator(1.0)],
        widget=theme.UnfoldAdminTextInputWidget,
        help_text=_("After so long it gets the next share by itself; empty: only by hand."),
    )

    def clean_percents(self) -> list[str]:
        """Return the shares as they are written; starting checks them."""
        return [part.strip() for part in self.cleaned_data["percents"].split(",") if part.strip()]


class ReasonForm(forms.Form):
    """Why something is done."""

    reason = forms.CharField(
        label=_("Reason"),
        required=False,
        max_length=1000,
        widget=theme.UnfoldAdminTextInputWidget,
        help_text=_("For the history."),
    )


def confirm(
    owner: Any,
    request: HttpRequest,
    *,
    title: str,
    changes: list[Change],
    form: forms.Form,
    act: Callable[[], RollOut],
) -> TemplateResponse | None:
    """Show what an action will change, with its form; run it once that is confirmed.

    Returns:
        The page, as long as nothing is confirmed; None once it is done.
    """
    if request.POST.get("confirmed") and form.is_valid():
        try:
            done = act()
        except ValidationError as error:
            form.add_error(None, " ".join(error.messages))
        else:
            owner.message_user(request, f"{done.candidate}: {done.get_state_display()}.")
            return None
    return TemplateResponse(
        request,
        "admin/serving_app/confirm_step.html",
        {
            **owner.admin_site.each_context(request),
            "title": title,
            "opts": owner.opts,
            "changes": changes,
            "form": form,
            "action": request.POST.get("action", ""),
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "checkbox": ACTION_CHECKBOX_NAME,
        },
    )


def _filled(kind: type[forms.Form], request: HttpRequest) -> Any:
    return kind(request.POST if request.POST.get("confirmed") else None)


@admin.action(description=_("Roll out to some users first …"), permissions=["administer"])
def start_roll_out(
    owner: Any, request: HttpRequest, queryset: QuerySet[ModelVersion]
) -> TemplateResponse | None:
    """Start a roll-out of the chosen version."""
    if queryset.count() != 1:
        owner.message_user(request, _("Choose one version."), messages.ERROR)
        return None
    version = queryset.get()
    production = version.model.live_version
    if production is None:
        owner.message_user(
            request, _("There is no live version to compare with: make one live."), messages.ERROR
        )
        return None
    form = _filled(StartForm, request)

    def act() -> RollOut:
        given = form.cleaned_data
        return rollout.start(
            version,
            given["percents"],
            step_seconds=given["step_seconds"],
            by=user_of(request),
        )

    return confirm(
        owner,
        request,
        title=_("Roll out %(version)s") % {"version": version},
        changes=[
            Change(PRODUCTION, _share(production, Decimal(100)), str(_("the other users"))),
            Change(CANARY, "—", f"{version}: the first step's share"),
        ],
        form=form,
        act=act,
    )


@admin.register(RollOut)
class RollOutAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Roll-outs: raise, promote, abort, and what happened."""

    when_empty = _("In Versions, choose one, and the action “Roll out to some users first …”.")
    list_display = ("__str__", "share", "production", "started", "ended", "by")
    list_filter = ("state", "model")
    inlines = (StepInline,)
    actions = ("raise_share", "promote", "abort")
    list_before_template = "admin/serving_app/how_to_roll_out.html"
    fields = readonly_fields = (
        "model",
        "candidate",
        "production",
        "state",
        "share",
        "steps",
        "step_seconds",
        "started",
        "ended",
        "by",
        "compared",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[RollOut]:
        """Return the roll-outs with what the list shows of them."""
        rows: QuerySet[RollOut] = super().get_queryset(request)
        return rows.select_related(
            "model", "candidate__model", "production__model", "by"
        ).prefetch_related("model__aliases")

    @admin.display(description=_("share"))
    def share(self, roll_out: RollOut) -> str:
        """Return the canary's present share."""
        return f"{roll_out.percent.normalize():f} %" if roll_out.percent else "—"

    @admin.display(description=_("steps"))
    def steps(self, roll_out: RollOut) -> str:
        """Return the canary's shares, one after the other."""
        return ", ".join(f"{percent:g} %" for percent in roll_out.percents)

    @admin.display(description=_("compared"))
    def compared(self, roll_out: RollOut) -> str:
        """Return what both versions did so far."""
        evidence = roll_out.evidence or {}
        arms = {arm: evidence.get(arm, {}) for arm in (CANARY, PRODUCTION)}
        counts = {
            arm: {"computed": told.get("requests", 0), "failed": told.get("errors", 0)}
            for arm, told in arms.items()
        }
        return format_html("<pre>{}</pre>", pretty(counts))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: roll-outs are started from a version."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: steps change a roll-out."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: it is history."""
        return False

    def has_administer_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may change what is live."""
        return request.user.has_perm("serving_app.administer")

    @admin.action(description=_("Raise the share to the next step …"), permissions=["administer"])
    def raise_share(
        self, request: HttpRequest, queryset: QuerySet[RollOut]
    ) -> TemplateResponse | None:
        """Give the canary its next share."""
        return self._step(request, queryset, rollout.raise_share, _("Raise the share of %s"))

    @admin.action(description=_("Promote the candidate …"), permissions=["administer"])
    def promote(self, request: HttpRequest, queryset: QuerySet[RollOut]) -> TemplateResponse | None:
        """Let the candidate answer everyone."""
        return self._step(request, queryset, rollout.promote, _("Promote %s"))

    @admin.action(description=_("Abort …"), permissions=["administer"])
    def abort(self, request: HttpRequest, queryset: QuerySet[RollOut]) -> TemplateResponse | None:
        """Let production answer everyone again."""
        return self._step(request, queryset, rollout.abort, _("Abort the roll-out of %s"))

    def _step(
        self,
        request: HttpRequest,
        queryset: QuerySet[RollOut],
        step: Callable[..., RollOut],
        title: Any,
    ) -> TemplateResponse | None:
        if queryset.count() != 1:
            self.message_user(request, _("Choose one roll-out."), messages.ERROR)
            return None
        roll_out = queryset.get()
        if roll_out.state != RollOut.State.RUNNING:
            self.message_user(request, _("It has ended already."), messages.ERROR)
            return None
        form = _filled(ReasonForm, request)
        now, one, two = roll_out.percent, roll_out.production, roll_out.candidate
        if step is rollout.promote:
            changes = [
                Change(PRODUCTION, _share(one, 100 - now), _share(two, Decimal(100))),
                Change(CANARY, _share(two, now), "—"),
            ]
        else:
            then = Decimal(0) if step is rollout.abort else rollout.next_percent(roll_out)
            if then is None:
                self.message_user(
                    request, _("That was the last step: promote, or abort."), messages.ERROR
                )
                return None
            changes = _changes(one, two, now, then)
        return confirm(
            self,
            request,
            title=title % two,
            changes=changes,
            form=form,
            act=lambda: step(roll_out, by=user_of(request), reason=form.cleaned_data["reason"]),
        )


class AliasForm(forms.ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """Gives a version an alias."""

    class Meta:
        """Fields."""

        model = Alias
        fields = ("version", "name", "percent")

    def clean(self) -> dict[str, Any]:
        """Refuse the aliases that have ways of their own."""
        given: dict[str, Any] = super().clean() or {}
        if given.get("name") in {PRODUCTION, CANARY}:
            self.add_error("name", _("Make a version live, or roll it out, in Versions."))
        if given.get("version") is not None:
            self.instance.model = given["version"].model
        return given


@admin.register(Alias)
class AliasAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Aliases. Adding one that exists moves it."""

    form = AliasForm
    when_empty = _("Make a version live: the alias production will lead to it.")
    list_display = ("__str__", "version", "percent", "changed")
    list_filter = ("model", "name")
    list_select_related = ("model", "version__model")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: add it anew to move it."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the alias may be taken away here: production and canary may not."""
        fixed = obj is not None and obj.name in {PRODUCTION, CANARY}
        return bool(not fixed and super().has_delete_permission(request, obj))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Return none: one alias at a time is taken away."""
        return {}

    def save_model(
        self, request: HttpRequest, obj: Alias, form: ModelForm[Alias], change: bool
    ) -> None:
        """Let the alias lead to the version."""
        row = promotion.set_alias(obj.version, obj.name, percent=obj.percent, by=user_of(request))
        obj.__dict__.update(row.__dict__)  # the admin goes on with the row that was made

    def delete_model(self, request: HttpRequest, obj: Alias) -> None:
        """Take the alias away."""
        promotion.remove_alias(obj, by=user_of(request))
