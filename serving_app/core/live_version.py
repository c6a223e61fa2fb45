"""One model version in memory: features in, rankings out."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins import (
    ArtifactRejected,
    FeatureSource,
    InferenceError,
    InvalidInput,
    Priority,
    Unavailable,
    UserId,
)
from plugins.registry import PluginRegistry
from serving_app.core.artifacts import locate
from serving_app.core.batcher import BatcherStats
from serving_app.core.engine import Engine, open_engine, registered_file
from serving_app.core.features import FeatureLayout
from serving_app.core.outcomes import Outcomes
from serving_app.core.ranking import Catalogue, Ranking, read_catalogue
from serving_app.core.version_record import VersionRecord

__all__ = ["LiveVersion", "open_feature_source", "open_version"]


class LiveVersion:
    """A model version that answers requests. Built by `open_version`.

    Args:
        record: The version.
        engine: Runs its model.
        catalogue: Its items.
        source: Where its users' features are, if it has one.
    """

    def __init__(
        self,
        record: VersionRecord,
        *,
        engine: Engine[Ranking],
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
        self._engine = engine
        self.outcomes = Outcomes(record.timeout)
        """How what somebody waited for ended."""

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
            self.outcomes.failed()
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

    def submit(
        self,
        row: NDArray[np.float32],
        depth: int,
        *,
        seconds: float | None = None,
        priority: Priority = Priority.LIVE,
    ) -> Future[Ranking]:
        """Queue one row, and return the future of its ranking, ``depth`` items deep.

        Args:
            row: The features, in the model's order.
            depth: How many items are wanted; the whole catalogue at most.
            seconds: How long the ranking is of use to anyone; None: the model's time-out.
            priority: What goes first when not everything can.

        Raises:
            QueueFull: Too many rows are queued.
            ModelNotReady: The engine is closed, or cannot be reached.
        """
        seconds = self.record.timeout if seconds is None else seconds
        if priority == Priority.WARM_UP:
            return self._engine.submit(row, depth, seconds=seconds, priority=priority)
        try:
            computation = self._engine.submit(row, depth, seconds=seconds, priority=priority)
        except Unavailable:
            self.outcomes.failed()
            raise
        self.outcomes.watch(computation)
        return computation

    def stats(self) -> BatcherStats:
        """Return what its engine counted."""
        return self._engine.stats()

    def close(self) -> None:
        """Finish what is queued, and free the model."""
        with ExitStack() as closing:  # each is closed, even if one of them raises
            if self._source is not None:
                closing.callback(self._source.close)
            closing.callback(self._engine.close)


def open_version(record: VersionRecord, *, store: Path, registry: PluginRegistry) -> LiveVersion:
    """Load a registered version, and return it when a probe batch has succeeded.

    Raises:
        ArtifactRejected: The artifact is not what was registered, or cannot be loaded.
        PluginError: A plugin it names does not exist, or refuses its options.
        InferenceError: The probe batch failed.
    """
    catalogue = read_catalogue(registered_file(store, record.catalogue, record.catalogue_sha256))
    with ExitStack() as undo:
        source = open_feature_source(record, store=store, registry=registry)
        if source is not None:
            undo.callback(source.close)
        engine = open_engine(
            record,
            store=store,
            registry=registry,
            items=len(catalogue.items),
            finish=functools.partial(Ranking.of, catalogue),
        )
        undo.callback(engine.close)
        live = LiveVersion(record, engine=engine, catalogue=catalogue, source=source)
        undo.pop_all()
    return live


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
