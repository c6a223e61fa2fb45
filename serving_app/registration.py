"""Registering, promoting and rolling back versions: what admin, API and commands all call."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from plugins import ArtifactRejected, ModelSpec, PluginError, Signature
from plugins.apps import get_registry
from plugins.conf import plugin_settings
from serving_app.conf import serving_settings
from serving_app.core.artifacts import digest, locate
from serving_app.core.live_version import open_feature_source
from serving_app.core.probe import probe_in_process, signature_as_json
from serving_app.core.ranking import read_catalogue
from serving_app.core.version_record import VersionRecord
from serving_app.models import MODEL_NAME, ModelVersion, ServedModel
from serving_app.promotion import promote, roll_back

__all__ = [
    "Draft",
    "Validated",
    "add",
    "promote",
    "register",
    "revalidate",
    "roll_back",
    "validate",
]


@dataclass(frozen=True, slots=True)
class Draft:
    """A version that someone wants to register."""

    artifact: str
    """Path in the model store."""
    framework: str
    catalogue: str
    """Path in the model store."""
    feature_names: tuple[str, ...]
    sha256: str = ""
    """The digest that the artifact must have; empty: whatever it has."""
    framework_options: Mapping[str, Any] = field(default_factory=dict)
    feature_source: str = ""
    feature_source_options: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Validated:
    """What validation found out about a version."""

    sha256: str
    catalogue_sha256: str
    signature: Signature
    items: int


def validate(model_name: str, draft: Draft) -> Validated:
    """Check a version as thoroughly as can be without serving it.

    In this order: the files are inside the store, the digest is the declared one, the catalogue
    reads, the feature names are sound, the plugins exist and take the options, the feature source
    opens, and the model loads in a separate process and scores sample batches over the catalogue.

    Raises:
        ArtifactRejected: Something is wrong with the files.
        PluginError: A plugin does not exist, or refuses its options.
    """
    serving = serving_settings()
    registry = get_registry()
    path = locate(serving.model_store, draft.artifact)
    sha256 = digest(path)
    if draft.sha256 and draft.sha256.strip().lower() != sha256:
        raise ArtifactRejected(
            f"The SHA-256 of {draft.artifact} is {sha256}, not {draft.sha256} as declared. "
            "The file is damaged, or not the one you mean."
        )
    catalogue_path = locate(serving.model_store, draft.catalogue)
    catalogue = read_catalogue(catalogue_path)
    _check_feature_names(draft.feature_names)
    registry.frameworks.check_options(draft.framework, draft.framework_options)
    record = VersionRecord(
        model_name=model_name,
        version=0,
        artifact=draft.artifact,
        sha256=sha256,
        framework=draft.framework,
        catalogue=draft.catalogue,
        catalogue_sha256=digest(catalogue_path),
        feature_names=draft.feature_names,
        feature_source=draft.feature_source,
        feature_source_options=draft.feature_source_options,
    )
    source = open_feature_source(record, store=serving.model_store, registry=registry)
    if source is not None:
        source.close()
    report = probe_in_process(
        ModelSpec(
            model_name=model_name,
            version=0,
            framework=draft.framework,
            path=path,
            options=draft.framework_options,
        ),
        features=len(draft.feature_names),
        items=len(catalogue.items),
        blocked=tuple(plugin_settings().blocked),
        timeout=serving.validation_seconds,
    )
    return Validated(sha256, record.catalogue_sha256, report.signature, len(catalogue.items))


def _check_feature_names(names: tuple[str, ...]) -> None:
    if not names:
        raise ArtifactRejected("Declare the feature names, in the order the model takes them.")
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise ArtifactRejected(f"Feature names must be words; {wrong[0]!r} is none.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArtifactRejected(f"The feature name {twice[0]} is declared twice.")


def register(model_name: str, draft: Draft, *, by: User | None = None) -> ModelVersion:
    """Validate a version and add it to the registry; the model is created if it is new.

    The version is not live yet. If anything is wrong, nothing is registered.

    Raises:
        ArtifactRejected: Something is wrong with the files.
        PluginError: A plugin does not exist, or refuses its options.
        ValidationError: The model's name is none.
    """
    MODEL_NAME(model_name)
    return add(model_name, draft, validate(model_name, draft), by=by)


def add(
    model_name: str, draft: Draft, validated: Validated, *, by: User | None = None
) -> ModelVersion:
    """Add a version that `validate` has just passed to the registry."""
    with transaction.atomic():
        model, _ = ServedModel.objects.get_or_create(name=model_name)
        # Locking the model's row lets numbers go up one at a time.
        ServedModel.objects.select_for_update().get(pk=model.pk)
        highest = model.versions.aggregate(n=Max("number"))["n"] or 0
        return ModelVersion.objects.create(
            model=model,
            number=highest + 1,
            framework=draft.framework,
            framework_options=dict(draft.framework_options),
            artifact=draft.artifact,
            sha256=validated.sha256,
            signature=signature_as_json(validated.signature),
            feature_names=list(draft.feature_names),
            catalogue=draft.catalogue,
            catalogue_sha256=validated.catalogue_sha256,
            items=validated.items,
            feature_source=draft.feature_source,
            feature_source_options=dict(draft.feature_source_options),
            notes=draft.notes,
            metrics=dict(draft.metrics),
            created_by=by,
            validated=timezone.now(),
        )


def revalidate(version: ModelVersion) -> str:
    """Validate a registered version again; return what is wrong, or an empty string."""
    draft = Draft(
        **{
            f.name: getattr(version, f.name)
            for f in dataclasses.fields(Draft)
            if f.name != "feature_names"
        },
        feature_names=tuple(version.feature_names),
    )
    try:
        validate(version.model.name, draft)
        version.problem = ""
    except (ArtifactRejected, PluginError) as error:
        version.problem = str(error)
    version.validated = timezone.now()
    version.save(update_fields=["problem", "validated"])
    return version.problem
