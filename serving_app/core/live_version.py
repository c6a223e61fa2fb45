"""One model version in memory: features in, rankings out, in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins import (
    ArtifactRejected,
    FeatureSource,
    HostedModel,
    InferenceError,
    InvalidInput,
    ModelSpec,
    Signature,
    UserId,
)
from plugins.registry import PluginRegistry
from serving_app.core.artifacts import digest, locate
from serving_app.core.batcher import Batcher, BatcherStats
from serving_app.core.features import FeatureLayout
from serving_app.core.ranking import Catalogue, Ranking, read_catalogue, top_k


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One registered model version, as plain values: what the database knows of it."""

    model_name: str
    version: int
    artifact: str
    """Path of the artifact in the store."""
    sha256: str
    framework: str
    catalogue: str
    """Path of the item catalogue in the store."""
    catalogue_sha256: str
    feature_names: tuple[str, ...]
    signature: Signature | None = None
    framework_options: Mapping[str, Any] = field(default_factory=dict)
    executor: str = "in_process"
    executor_options: Mapping[str, Any] = field(default_factory=dict)
    feature_source: str = ""
    """Name of the feature source plugin; empty: features must come with the request."""
    feature_source_options: Mapping[str, Any] = field(default_factory=dict)
    max_batch: int = 64
    max_queue: int = 1024
    timeout: float = 10.0
    """Seconds that a request may take, unless its caller says otherwise."""

    @property
    def label(self) -> str:
        """Return ``name@version``."""
        return f"{self.model_name}@{self.version}"


@dataclass(frozen=True, slots=True)
class _Row:
    """One queued request: its feature row, and how deep its ranking must go."""

    features: NDArray[np.float32]
    depth: int


class LiveVersion:
    """A loaded model version that answers requests. Built by `open_version`."""

    def __init__(
        self,
        record: VersionRecord,
        *,
        hosted: HostedModel,
        catalogue: Catalogue,
        source: FeatureSource | None,
    ) -> None:
        self.record = record
        self.fingerprint = hashlib.blake2b(
            (record.sha256 + record.catalogue_sha256).encode(), digest_size=4
        ).hexdigest()
        """Digest of what its answers depend on; part of their cache keys."""
        self.catalogue = catalogue
        self.layout = FeatureLayout(record.feature_names)
        self._source = source
        self._columns = _columns(record, source)
        self._hosted = hosted
        signature = record.signature
        self._input = signature.inputs[0].name if signature else "features"
        self._batcher: Batcher[_Row, Ranking] = Batcher(
            self._rank,
            name=record.label,
            max_batch=record.max_batch,
            max_queue=record.max_queue,
            threads=hosted.instances,
        )

    def features_of(self, user_id: UserId, context: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the user's feature row from the feature source.

        Raises:
            InvalidInput: There is no feature source, or it does not know the user.
            InferenceError: The feature source failed.
        """
        if self._source is None:
            raise InvalidInput(
                f"{self.record.label} has no feature source; send features.", field="features"
            )
        try:
            row = self._source.features(user_id, context)
        except Exception as error:  # a plugin may raise anything; the waiters must hear of it
            raise InferenceError(
                f"The feature source of {self.record.label} failed: {error}"
            ) from error
        if row is None:
            raise InvalidInput(
                f"The feature source of {self.record.label} does not know user {user_id!r}; "
                "send features.",
                field="user_id",
            )
        return row if self._columns is None else row[self._columns]

    def submit(self, features: NDArray[np.float32], depth: int) -> Future[Ranking]:
        """Queue one row, and return the future of its ranking, ``depth`` items deep.

        Raises:
            QueueFull: Too many rows are queued.
        """
        return self._batcher.submit(_Row(features, min(depth, len(self.catalogue.items))))

    def probe(self) -> None:
        """Run one batch through the model, as a request would.

        Raises:
            InferenceError: The model cannot answer.
        """
        zeros = np.zeros(len(self.record.feature_names), dtype=np.float32)
        result = self._rank([_Row(zeros, 1)])[0]
        if isinstance(result, Exception):
            raise result

    def stats(self) -> BatcherStats:
        """Return what its batcher counted."""
        return self._batcher.stats()

    def close(self) -> None:
        """Finish what is queued, and free the model."""
        with ExitStack() as closing:  # each is closed, even if one of them raises
            if self._source is not None:
                closing.callback(self._source.close)
            closing.callback(self._hosted.close)
            closing.callback(self._batcher.close)

    def _rank(self, rows: Sequence[_Row]) -> list[Ranking | Exception]:
        """Return the rankings of a batch. Runs on a batcher thread."""
        outputs = self._hosted.run({self._input: np.stack([row.features for row in rows])})
        scores = next(iter(outputs.values()))
        n = len(self.catalogue.items)
        if scores.shape != (len(rows), n):
            raise InferenceError(
                f"{self.record.label} returned scores of shape {scores.shape} for "
                f"{len(rows)} rows and {n} items."
            )
        finite = np.atleast_1d(np.isfinite(scores).all(axis=1))
        positions, best = top_k(np.where(finite[:, None], scores, 0), max(r.depth for r in rows))
        items = self.catalogue.items
        results: list[Ranking | Exception] = []
        for i, row in enumerate(rows):
            if not finite[i]:
                results.append(
                    InferenceError(f"{self.record.label} returned scores that are not finite.")
                )
                continue
            results.append(
                Ranking(
                    items=tuple(items[p] for p in positions[i, : row.depth].tolist()),
                    scores=tuple(best[i, : row.depth].tolist()),
                    complete=row.depth == n,
                )
            )
        return results


def open_version(record: VersionRecord, *, store: Path, registry: PluginRegistry) -> LiveVersion:
    """Load a registered version, and return it when a probe batch has succeeded.

    Raises:
        ArtifactRejected: The artifact is not what was registered, or cannot be loaded.
        PluginError: A plugin it names does not exist, or refuses its options.
        InferenceError: The probe batch failed.
    """
    path = _registered(store, record.artifact, record.sha256)
    catalogue = read_catalogue(_registered(store, record.catalogue, record.catalogue_sha256))
    spec = ModelSpec(
        model_name=record.model_name,
        version=record.version,
        framework=record.framework,
        path=path,
        options=record.framework_options,
        signature=record.signature,
    )
    framework = registry.frameworks.create(record.framework, record.framework_options)
    executor = registry.executors.create(record.executor, record.executor_options)
    with ExitStack() as undo:
        source = open_feature_source(record, store=store, registry=registry)
        if source is not None:
            undo.callback(source.close)
        hosted = executor.host(spec, lambda: framework.load(spec))
        undo.callback(hosted.close)
        live = LiveVersion(record, hosted=hosted, catalogue=catalogue, source=source)
        undo.pop_all()
        undo.callback(live.close)
        live.probe()
        undo.pop_all()
    return live


def _registered(store: Path, relative: str, sha256: str) -> Path:
    """Return a file's path if it is still the one that was registered."""
    path = locate(store, relative)
    if digest(path) != sha256:
        raise ArtifactRejected(
            f"{relative!r} is not the file that was registered: its SHA-256 differs. Restore it, "
            "or register the new file as a new version."
        )
    return path


def open_feature_source(
    record: VersionRecord, *, store: Path, registry: PluginRegistry
) -> FeatureSource | None:
    """Return the version's feature source, or None if it has none.

    An option named ``path`` is a path in the model store.

    Raises:
        ArtifactRejected: The path is not in the store, or the source lacks a feature.
        PluginError: No such plugin, or it refuses the options.
    """
    if not record.feature_source:
        return None
    options = dict(record.feature_source_options)
    if isinstance(options.get("path"), str):
        options["path"] = str(locate(store, options["path"]))
    source = registry.feature_sources.create(record.feature_source, options)
    try:
        _columns(record, source)
    except ArtifactRejected:
        source.close()
        raise
    return source


def _columns(record: VersionRecord, source: FeatureSource | None) -> NDArray[np.intp] | None:
    """Return where the model's features stand in the source's rows; None: just as they are."""
    if source is None or source.feature_names == record.feature_names:
        return None
    at = {name: i for i, name in enumerate(source.feature_names)}
    missing = [name for name in record.feature_names if name not in at]
    if missing:
        raise ArtifactRejected(
            f"The feature source {record.feature_source} lacks {', '.join(missing[:5])}, which "
            f"{record.label} takes."
        )
    return np.array([at[name] for name in record.feature_names], dtype=np.intp)
