"""Forms of the admin."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from plugins import InvalidInput, RecommendationRequest, RecserveError
from plugins.apps import get_registry
from serving_app import registration
from serving_app.conf import serving_settings
from serving_app.models import ModelVersion
from serving_app.uploads import UploadFolder


class ServedModelForm(forms.ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """A model, with the executors that there are."""

    executor = forms.ChoiceField(
        label=_("Executor"),
        initial="in_process",
        widget=theme.UnfoldAdminSelectWidget,
        help_text=_("Where the model runs."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = get_registry().executors.names()
        self.fields["executor"].choices = [(n, n) for n in names]  # type: ignore[attr-defined]


class RegisterVersionForm(forms.ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """Registers a version: its files are validated before anything is saved."""

    framework = forms.ChoiceField(label=_("Framework"), widget=theme.UnfoldAdminSelectWidget)
    feature_source = forms.ChoiceField(
        label=_("Feature source"),
        required=False,
        widget=theme.UnfoldAdminSelectWidget,
        help_text=_("Plugin that knows users' features; none: clients must send them."),
    )
    artifact = forms.CharField(
        label=_("Artifact"),
        required=False,
        max_length=500,
        widget=theme.UnfoldAdminTextInputWidget,
        help_text=_("Path of the file or SavedModel directory in the model store, or upload it."),
    )
    artifact_upload = forms.FileField(
        label=_("Upload the artifact"),
        required=False,
        widget=theme.UnfoldAdminFileFieldWidget,
        help_text=_("One file; a SavedModel as a .zip of its directory."),
    )
    catalogue = forms.CharField(
        label=_("Catalogue"),
        required=False,
        max_length=500,
        widget=theme.UnfoldAdminTextInputWidget,
        help_text=_("Path of a CSV file with the columns item,title in the model store."),
    )
    catalogue_upload = forms.FileField(
        label=_("Upload the catalogue"), required=False, widget=theme.UnfoldAdminFileFieldWidget
    )
    sha256 = forms.CharField(
        label=_("SHA-256"),
        required=False,
        max_length=64,
        widget=theme.UnfoldAdminTextInputWidget,
        help_text=_("If given, the artifact must have this digest."),
    )
    feature_names = forms.CharField(
        label=_("Feature names"),
        required=False,
        widget=theme.UnfoldAdminTextareaWidget,
        help_text=_("Separated by commas or line ends, in the order the model takes them."),
    )
    output = forms.ChoiceField(
        label=_("Output"),
        required=False,
        widget=theme.UnfoldAdminSelectWidget,
        help_text=_("What the model returns; none: validation finds out."),
    )
    item_vectors = forms.CharField(
        label=_("Item vectors"),
        required=False,
        max_length=500,
        widget=theme.UnfoldAdminTextInputWidget,
        help_text=_("Path of a .npy file in the model store, or upload it; for an embedding."),
    )
    item_vectors_upload = forms.FileField(
        label=_("Upload the item vectors"),
        required=False,
        widget=theme.UnfoldAdminFileFieldWidget,
    )

    class Meta:
        """Fields."""

        model = ModelVersion
        fields = (
            "model",
            "framework",
            "framework_options",
            "artifact",
            "artifact_upload",
            "sha256",
            "catalogue",
            "catalogue_upload",
            "output",
            "output_options",
            "item_vectors",
            "item_vectors_upload",
            "feature_names",
            "feature_schema",
            "feature_source",
            "feature_source_options",
            "notes",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        registry = get_registry()
        self.fields["framework"].choices = [(n, n) for n in registry.frameworks.names()]  # type: ignore[attr-defined]
        self.fields["output"].choices = [("", "—"), *ModelVersion.Output.choices]  # type: ignore[attr-defined]
        self.initial.pop("output", None)  # the row's default is no choice of the form's
        sources = registry.feature_sources.names()
        self.fields["feature_source"].choices = [("", "—"), *((n, n) for n in sources)]  # type: ignore[attr-defined]

    def clean_feature_names(self) -> list[str]:
        """Return the names as a list."""
        text = self.cleaned_data["feature_names"].replace("\n", ",")
        return [name.strip() for name in text.split(",") if name.strip()]

    def clean(self) -> dict[str, Any]:
        """Validate the version, in a separate process; what is wrong becomes the form's error."""
        given = super().clean() or {}
        if self.errors:
            return given
        serving = serving_settings()
        folder = UploadFolder(serving.model_store, limit=serving.max_upload_bytes)
        try:
            for field in ("artifact", "catalogue", "item_vectors"):
                upload = given.get(f"{field}_upload")
                if upload is not None:
                    given[field] = folder.keep(upload)
            if not given["artifact"]:
                raise ValidationError({"artifact": _("Give its path in the store, or upload it.")})
            if not given["catalogue"] and given["output"] != "raw":
                raise ValidationError(
                    {"catalogue": _("Give its path in the store, or upload it; or choose raw.")}
                )
            self.draft = registration.Draft(
                artifact=given["artifact"],
                framework=given["framework"],
                catalogue=given["catalogue"],
                feature_names=tuple(given["feature_names"]),
                feature_schema=given["feature_schema"] or [],
                output=given["output"],
                output_options=given["output_options"] or {},
                item_vectors=given["item_vectors"],
                sha256=given["sha256"],
                framework_options=given["framework_options"] or {},
                feature_source=given["feature_source"],
                feature_source_options=given["feature_source_options"] or {},
                notes=given["notes"],
            )
            self.validated = registration.validate(given["model"].name, self.draft)
        except BaseException as error:
            folder.discard()
            if isinstance(error, RecserveError):
                raise ValidationError(str(error)) from error
            raise
        return given

    def _post_clean(self) -> None:
        """Leave the instance alone: `registration.add` makes the row."""


class _OptionalJSON(forms.JSONField):
    """JSON, or nothing; nothing is shown as an empty field, and not as null."""

    def prepare_value(self, value: Any) -> Any:
        """Return what the field shows."""
        return "" if value is None else super().prepare_value(value)


class TryForm(forms.Form):
    """One request, as a client would send it."""

    user_id = forms.CharField(label=_("User id"), widget=theme.UnfoldAdminTextInputWidget)
    k = forms.IntegerField(
        label=_("How many"), initial=10, min_value=1, widget=theme.UnfoldAdminIntegerFieldWidget
    )
    exclude = forms.CharField(
        label=_("Exclude"),
        required=False,
        widget=theme.UnfoldAdminTextInputWidget,
        help_text=_("Item ids, separated by commas."),
    )
    features = _OptionalJSON(
        label=_("Features"),
        required=False,
        widget=theme.UnfoldAdminTextareaWidget,
        help_text=_("JSON: values by name, or a list; empty: from the feature source."),
    )

    def clean_k(self) -> int:
        """Return ``k``, if it is not more than a request may ask for."""
        k: int = self.cleaned_data["k"]
        most = serving_settings().max_k
        if k > most:
            raise ValidationError(_("At most %(most)s."), params={"most": most})
        return k

    def clean_features(self) -> Any:
        """Return the features, if they are an object or a list."""
        features = self.cleaned_data["features"]
        if features is not None and not isinstance(features, dict | list):
            raise ValidationError(_("Give a JSON object or list."))
        return features

    def request(self, model_name: str) -> RecommendationRequest:
        """Return the request to a model."""
        given = self.cleaned_data
        return RecommendationRequest(
            user_id=given["user_id"],
            model_name=model_name,
            features=given["features"],
            k=given["k"],
            exclude=frozenset(item.strip() for item in given["exclude"].split(",") if item.strip()),
        )

    def blame(self, error: RecserveError) -> None:
        """Show an error at the field that it names."""
        field = error.field.partition(".")[0] if isinstance(error, InvalidInput) else None
        self.add_error(field if field in self.fields else None, str(error))


def pretty(value: Any) -> str:
    """Return JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)
