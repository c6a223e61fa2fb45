"""The registry in the admin: register, validate, make live, roll back, try."""

from __future__ import annotations

import time
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from plugins import RecserveError
from serving_app import access, process_statistics, registration, wiring
from serving_app.access_admin import GroupModelsInline, RoleGrantInline
from serving_app.activity_admin import ActivityCountAdmin  # noqa: F401  (registers itself)
from serving_app.alert_admin import AlertRuleAdmin  # noqa: F401  (registers itself)
from serving_app.core.shadow import COMPARED
from serving_app.core.statistics import Statistics
from serving_app.drift_admin import DriftDecisionAdmin  # noqa: F401  (registers itself)
from serving_app.forms import RegisterVersionForm, ServedModelForm, TryForm, pretty
from serving_app.models import Activation, ModelVersion, Promotion, ServedModel
from serving_app.payload_admin import LoggedRequestAdmin  # noqa: F401  (registers itself)
from serving_app.promotion_admin import make_live, roll_back
from serving_app.release_admin import (
    AliasInline,
    ReadOnlyInline,
    RollOutInline,
    start_roll_out,
)
from serving_app.segment_admin import SegmentAdmin  # noqa: F401  (registers itself)
from serving_app.warmup_admin import WarmupScheduleAdmin  # noqa: F401  (registers itself)

admin.site.unregister([User, Group])


@admin.register(User)
class UserAdmin(DjangoUserAdmin, theme.ModelAdmin):  # type: ignore[type-arg,misc]  # untyped theme
    """Users, in the theme."""

    form = theme.UserChangeForm
    add_form = theme.UserCreationForm
    change_password_form = theme.AdminPasswordChangeForm


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Groups, in the theme."""

    inlines = (GroupModelsInline, RoleGrantInline)


@admin.display(description=_("load time"), ordering="load_seconds")
def _load_time(activation: Activation) -> str:
    """Return how long loading took."""
    seconds = activation.load_seconds
    return "—" if seconds is None else f"{seconds:.2f} s"


class VersionInline(ReadOnlyInline):
    """The model's versions."""

    model = ModelVersion
    fields = readonly_fields = ("number", "framework", "items", "notes", "created", "problem")
    tab = True


class PromotionInline(ReadOnlyInline):
    """The model's promotions."""

    model = Promotion
    fk_name = "model"
    fields = readonly_fields = ("version", "replaced", "at", "by", "rolled_back")
    show_change_link = False
    tab = True


class ActivationInline(ReadOnlyInline):
    """What each process runs."""

    model = Activation
    fields = readonly_fields = ("process", "version", "state", "problem", _load_time, "seen")
    show_change_link = False
    tab = True


@admin.register(ServedModel)
class ServedModelAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Models."""

    form = ServedModelForm
    when_empty = _("Add the name by which clients shall ask, or begin with manage.py demo.")
    list_display = ("name", "live", "processes", "executor", "changed", "try_link")
    search_fields = ("name", "description")
    list_filter = ("executor",)
    readonly_fields = ("live", "try_link", "shadows")
    fieldsets = (
        (None, {"fields": ("name", "description", "live", "shadows", "try_link")}),
        (
            _("Running"),
            {
                "fields": (
                    "executor",
                    "executor_options",
                    "max_batch",
                    "max_wait",
                    "max_queue",
                    "headroom",
                    "timeout",
                )
            },
        ),
    )
    inlines = (AliasInline, VersionInline, ActivationInline, RollOutInline, PromotionInline)
    actions = (roll_back,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ServedModel]:
        """Return the models with what the list shows of them."""
        rows: QuerySet[ServedModel] = super().get_queryset(request)
        return rows.prefetch_related("activations", "aliases__version__model")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Return also the name once it exists: clients ask by it."""
        return (*self.readonly_fields, "name") if obj else self.readonly_fields

    @admin.display(description=_("live version"))
    def live(self, model: ServedModel) -> str:
        """Return the live version with a link."""
        version = model.live_version if model.pk else None
        if version is None:
            return "—"
        url = reverse("admin:serving_app_modelversion_change", args=(version.pk,))
        return format_html('<a href="{}">{}</a>', url, version)

    @admin.display(description=_("shadow"))
    def shadows(self, model: ServedModel) -> str:
        """Return how much a shadow agrees with production, summed over all processes."""
        told = process_statistics.of_all(Statistics(), process_statistics.others(""))
        pairs = [(pair, stats) for pair, stats in told.pairs().items() if pair[0] == model.name]
        return (
            format_html_join(
                mark_safe("<br>"),
                "Version {} beside {}: {} of the top {} agree, {} compared, {} failed, {} dropped",
                (
                    (
                        shadow,
                        number,
                        f"{COMPARED * stats.overlap / stats.compared:.1f}"
                        if stats.compared
                        else "—",
                        COMPARED,
                        stats.compared,
                        stats.errors,
                        stats.dropped,
                    )
                    for (_name, number, shadow), stats in pairs
                ),
            )
            or "—"
        )

    @admin.display(description=_("processes"))
    def processes(self, model: ServedModel) -> str:
        """Return how many versions are where, counted in every process."""
        rows = model.activations.all()
        counts = {state: sum(row.state == state for row in rows) for state in Activation.State}
        shown = [f"{n} {state.label}" for state, n in counts.items() if n]
        return ", ".join(shown) or "—"

    @admin.display(description=_("try"))
    def try_link(self, model: ServedModel) -> str:
        """Return a link to the page that runs one request."""
        if model.pk is None or model.live_version is None:
            return "—"
        url = reverse("admin:serving_app_servedmodel_try", args=(model.pk,))
        return format_html(
            '<a class="text-primary-600 font-medium" href="{}">{}</a>', url, _("Try it")
        )

    def has_administer_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may change what is live."""
        return request.user.has_perm("serving_app.administer")

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's URLs, and the page that runs one request."""
        own = path(
            "<int:pk>/try/",
            self.admin_site.admin_view(self.try_it),
            name="serving_app_servedmodel_try",
        )
        return [own, *super().get_urls()]

    def try_it(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Run one request against a model, and show items with titles and scores."""
        if not request.user.has_perm("serving_app.predict"):
            raise PermissionDenied
        model = get_object_or_404(ServedModel, pk=pk)
        models = access.of_user(request.user).models
        if models is not None and model.name not in models:
            raise PermissionDenied
        form = TryForm(request.POST or None)
        answer = items = took = None
        if request.method == "POST" and form.is_valid():
            started = time.perf_counter()
            try:
                answer = wiring.get_recommender().recommend(form.request(model.name))
            except RecserveError as error:
                form.blame(error)
            else:
                took = (time.perf_counter() - started) * 1000
                titles = wiring.titles(model.name, answer.items)
                items = list(zip(answer.items, titles, answer.scores, strict=True))
        return TemplateResponse(
            request,
            "admin/serving_app/try_it.html",
            {
                **self.admin_site.each_context(request),
                "title": _("Try %(model)s") % {"model": model.name},
                "opts": self.opts,
                "model": model,
                "form": form,
                "answer": answer,
                "items": items,
                "took": took,
            },
        )


@admin.register(ModelVersion)
class ModelVersionAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Versions. Adding one validates it first; afterwards only its notes change."""

    when_empty = _("Upload a trained model: it is loaded and tried before it counts.")
    list_display = ("__str__", "live", "framework", "items", "notes", "created", "sound")
    list_filter = ("model", "framework")
    search_fields = ("model__name", "notes", "sha256")
    list_select_related = ("model",)
    actions = (make_live, start_roll_out, "validate")

    add_fieldsets = (
        (None, {"fields": ("model", "framework", "artifact", "artifact_upload", "sha256")}),
        (_("Items"), {"fields": ("catalogue", "catalogue_upload")}),
        (
            _("Features"),
            {
                "fields": (
                    "feature_names",
                    "feature_schema",
                    "feature_source",
                    "feature_source_options",
                )
            },
        ),
        (
            _("Output"),
            {"fields": ("output", "output_options", "item_vectors", "item_vectors_upload")},
        ),
        (_("More"), {"fields": ("framework_options", "notes")}),
    )
    fieldsets = (
        (None, {"fields": ("name", "live", "notes", "metrics")}),
        (_("Validation"), {"fields": ("sound", "problem", "validated")}),
        (
            _("Files"),
            {
                "fields": (
                    "framework",
                    "framework_options",
                    "artifact",
                    "sha256",
                    "catalogue",
                    "items",
                )
            },
        ),
        (
            _("Features"),
            {
                "fields": (
                    "features",
                    "feature_schema",
                    "feature_source",
                    "feature_source_options",
                    "takes",
                )
            },
        ),
        (_("Output"), {"fields": ("output", "output_options", "item_vectors")}),
        (_("Registered"), {"fields": ("created", "created_by")}),
    )
    change_readonly = (
        "name",
        "live",
        "sound",
        "problem",
        "validated",
        "framework",
        "framework_options",
        "artifact",
        "sha256",
        "catalogue",
        "items",
        "features",
        "feature_schema",
        "feature_source",
        "feature_source_options",
        "takes",
        "output",
        "output_options",
        "item_vectors",
        "created",
        "created_by",
        "metrics",
    )

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """Return the registering form for a new version, else one for the notes."""
        if obj is None:
            kwargs["form"] = RegisterVersionForm
        return super().get_form(request, obj, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what is asked of a new version, or shown of an old one."""
        return self.fieldsets if obj else self.add_fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Return all but the notes of a registered version: it never changes."""
        return self.change_readonly if obj else ()

    def save_model(
        self, request: HttpRequest, obj: ModelVersion, form: ModelForm[ModelVersion], change: bool
    ) -> None:
        """Add a validated version, or save a registered one's notes."""
        if not isinstance(form, RegisterVersionForm):
            super().save_model(request, obj, form, change)
            return
        assert request.user.is_authenticated, "admin_view lets nobody else in"
        version = registration.add(
            form.cleaned_data["model"].name, form.draft, form.validated, by=request.user
        )
        obj.__dict__.update(version.__dict__)  # the admin goes on with the row that was made

    @admin.display(description=_("version"))
    def name(self, version: ModelVersion) -> str:
        """Return name and number."""
        return str(version)

    @admin.display(description=_("live"), boolean=True)
    def live(self, version: ModelVersion) -> bool:
        """Return whether this is the model's live version."""
        return version.in_production

    @admin.display(description=_("valid"), boolean=True)
    def sound(self, version: ModelVersion) -> bool:
        """Return whether the last validation found nothing wrong."""
        return not version.problem

    @admin.display(description=_("feature names"))
    def features(self, version: ModelVersion) -> str:
        """Return the feature names in order."""
        return ", ".join(version.feature_names)

    @admin.display(description=_("signature"))
    def takes(self, version: ModelVersion) -> str:
        """Return the signature as JSON."""
        return format_html("<pre>{}</pre>", pretty(version.signature))

    def has_administer_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may change what is live."""
        return request.user.has_perm("serving_app.administer")

    @admin.action(description=_("Validate again"), permissions=["administer"])
    def validate(self, request: HttpRequest, queryset: QuerySet[ModelVersion]) -> None:
        """Validate the chosen versions again."""
        for version in queryset:
            problem = registration.revalidate(version)
            self.log_change(request, version, problem or "Validated")
            if problem:
                self.message_user(request, f"{version}: {problem}", messages.ERROR)
            else:
                self.message_user(request, _("%(v)s is valid.") % {"v": version})


@admin.register(Activation)
class ActivationAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Which process runs what."""

    when_empty = _(
        "Serving processes report here what they run. Make a version live, and start a server: "
        "manage.py serve."
    )
    list_display = ("model", "version", "process", "state", "problem", _load_time, "seen")
    list_filter = ("state", "model")
    list_select_related = ("model", "version__model")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: processes report themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: processes report themselves."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: processes report themselves."""
        return False
