"""Registering, promoting and rolling back versions: what admin, API and commands all call."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
from serving_app.core.feature_schema import read_schema
from serving_app.core.live_version import open_feature_source
from serving_app.core.outputs import read_item_vectors
from serving_app.core.probe import Expected, probe_in_process, signature_as_json
from serving_app.core.ranking import NO_CATALOGUE, Catalogue, read_catalogue
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
    catalogue: str = ""
    """Path in the model store; a raw output has none."""
    feature_names: tuple[str, ...] = ()
    """The features, where they are numbers for the model's only input."""
    feature_schema: Sequence[Any] = ()
    """The features, where a list of names does not say enough: see docs/features.md."""
    output: str = ""
    """What the model returns, one of `OUTPUTS`; empty: validation finds out."""
    output_options: Mapping[str, Any] = field(default_factory=dict)
    item_vectors: str = ""
    """Path in the model store of the items' vectors, for an output ``embedding``."""
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
    feature_names: tuple[str, ...]
    output: str
    output_options: Mapping[str, Any]
    item_vectors_sha256: str


def validate(model_name: str, draft: Draft) -> Validated:
    """Check a version as thoroughly as can be without serving it.

    In this order: the files are inside the store, the digest is the declared one, the catalogue
    and the items' vectors read, the features are sound, the plugins exist and take the options,
    the feature source opens, and the model loads in a separate process, where it takes sample
    batches of such features and returns outputs that fit the catalogue.

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
    catalogue, catalogue_sha256 = NO_CATALOGUE, ""
    if draft.catalogue:
        catalogue_path = locate(serving.model_store, draft.catalogue)
        catalogue, catalogue_sha256 = read_catalogue(catalogue_path), digest(catalogue_path)
    elif draft.output != "raw":
        raise ArtifactRejected(
            "Give the catalogue of the items that the model ranks; or, if it ranks none, the "
            "output raw."
        )
    vectors, vectors_sha256 = 0, ""
    if draft.item_vectors:
        vectors_path = locate(serving.model_store, draft.item_vectors)
        vectors = read_item_vectors(vectors_path, len(catalogue.items)).shape[1]
        vectors_sha256 = digest(vectors_path)
    names = _feature_names(draft, catalogue)
    registry.frameworks.check_options(draft.framework, draft.framework_options)
    record = VersionRecord(
        model_name=model_name,
        version=0,
        artifact=draft.artifact,
        sha256=sha256,
        framework=draft.framework,
        catalogue=draft.catalogue,
        catalogue_sha256=catalogue_sha256,
        feature_names=names,
        feature_schema=tuple(draft.feature_schema),
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
        Expected(
            feature_names=names,
            feature_schema=tuple(draft.feature_schema),
            items=len(catalogue.items),
            output=draft.output,
            output_options=draft.output_options,
            vectors=vectors,
        ),
        blocked=tuple(plugin_settings().blocked),
        timeout=serving.validation_seconds,
    )
    return Validated(
        sha256=sha256,
        catalogue_sha256=catalogue_sha256,
        signature=report.signature,
        items=len(catalogue.items),
        feature_names=names,
        output=report.output,
        output_options=report.output_options,
        item_vectors_sha256=vectors_sha256,
    )


def _feature_names(draft: Draft, catalogue: Catalogue) -> tuple[str, ...]:
    """Return the names of a draft's features, checked.

    Raises:
        ArtifactRejected: The features are declared wrongly, or twice.
    """
    names = draft.feature_names
    if draft.feature_schema:
        declared = read_schema(
            draft.feature_schema, catalogue=catalogue.position, items=len(catalogue.items)
        )
        if names and names != tuple(feature.name for feature in declared):
            raise ArtifactRejected(
                "The feature names and the feature schema differ; give one of them."
            )
        return tuple(feature.name for feature in declared)
    if names or draft.catalogue:  # what is raw may be asked for tensors only
        _check_feature_names(names)
    return names


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
            feature_names=list(validated.feature_names),
            feature_schema=list(draft.feature_schema),
            output=validated.output,
            output_options=dict(validated.output_options),
            item_vectors=draft.item_vectors,
            item_vectors_sha256=validated.item_vectors_sha256,
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
