"""One model version in memory: features in, rankings out."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
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
    Tensors,
    Unavailable,
    UserId,
)
from plugins.registry import PluginRegistry
from serving_app.core import engine as engines
from serving_app.core.artifacts import locate
from serving_app.core.batcher import BatcherStats
from serving_app.core.engine import Engine, OpenEngine, registered_file
from serving_app.core.features import FeatureLayout, Layout, NoLayout, Row
from serving_app.core.outcomes import Outcomes
from serving_app.core.ranking import NO_CATALOGUE, Catalogue, Ranking, read_catalogue
from serving_app.core.schema_layout import layout_of
from serving_app.core.tensors import checked_tensors
from serving_app.core.version_record import VersionRecord

__all__ = ["LiveVersion", "open_feature_source", "open_version"]


class LiveVersion:
    """A model version that answers requests. Built by `open_version`.

    Args:
        record: The version.
        engine: Runs its model.
        catalogue: Its items.
        source: Where its users' features are, if it has one.
        source_failed: Told of what that raises.

    Raises:
        ArtifactRejected: Its features do not fit its model.
    """

    def __init__(
        self,
        record: VersionRecord,
        *,
        engine: Engine[Ranking],
        catalogue: Catalogue,
        source: FeatureSource | None,
        source_failed: Callable[[Exception], object] | None = None,
    ) -> None:
        self.record = record
        self.fingerprint = _fingerprint(record)
        """Digest of what its answers depend on; part of their cache keys."""
        self.catalogue = catalogue
        self.layout = _layout(record, catalogue)
        self._source = source
        self._source_failed = source_failed
        self._columns = _columns(record, source)
        self._engine = engine
        self.source_waits = source is not None and getattr(source, "waits", True)
        """Whether `features_of` may wait: an event loop does not call it then."""
        self.outcomes = Outcomes(record.timeout)
        """How what somebody waited for ended."""

    def features_of(self, user_id: UserId, context: Mapping[str, Any]) -> Row:
        """Return the user's feature row from the feature source.

        Raises:
            InvalidInput: There is no feature source, or it does not know the user; or the version
                recommends nothing.
            InferenceError: The feature source failed.
        """
        if isinstance(self.layout, NoLayout):
            raise self.layout.refusal()
        if self._source is None:
            raise InvalidInput(
                f"{self.record.label} has no feature source; send features.", field="features"
            )
        try:
            known = self._source.features(user_id, context)
        except Exception as error:  # a plugin may raise anything; the waiters must hear of it
            self.outcomes.failed()
            if self._source_failed is not None:
                self._source_failed(error)
            raise InferenceError(
                f"The feature source of {self.record.label} failed: {error}"
            ) from error
        if known is None:
            raise InvalidInput(
                f"The feature source of {self.record.label} does not know user {user_id!r}; "
                "send features.",
                field="user_id",
            )
        if not isinstance(known, Mapping):
            if isinstance(self.layout, FeatureLayout):
                return (known if self._columns is None else known[self._columns],)
            known = dict(zip(self._source.feature_names, known.tolist(), strict=True))
        return self._row_of({name: known[name] for name in self.layout.names if name in known})

    def _row_of(self, features: Mapping[str, Any]) -> Row:
        """Return the row of what a feature source knows; what is wrong there is not the caller's.

        Raises:
            InferenceError: It is not what the version declares.
        """
        try:
            return self.layout.row(features)
        except InvalidInput as error:
            raise InferenceError(
                f"The feature source of {self.record.label} gives what it does not take. {error}"
            ) from error

    def submit(
        self,
        row: Row,
        depth: int,
        *,
        seconds: float | None = None,
        priority: Priority = Priority.LIVE,
        key: str | None = None,
    ) -> Future[Ranking]:
        """Queue one row, and return the future of its ranking, ``depth`` items deep.

        Args:
            row: The features, in the model's order.
            depth: How many items are wanted; the whole catalogue at most.
            seconds: How long the ranking is of use to anyone; None: the model's time-out.
            priority: What goes first when not everything can.
            key: Recognises a request that was refused, and comes back when told to.

        Raises:
            QueueFull: Too many rows are queued, or they leave too little time for this one.
            ModelNotReady: The engine is closed, or cannot be reached.
        """
        seconds = self.record.timeout if seconds is None else seconds
        if priority == Priority.WARM_UP:
            return self._engine.submit(row, depth, seconds=seconds, priority=priority, key=key)
        try:
            computation = self._engine.submit(
                row, depth, seconds=seconds, priority=priority, key=key
            )
        except Unavailable:
            self.outcomes.failed()
            raise
        self.outcomes.watch(computation)
        return computation

    def infer(
        self,
        inputs: Tensors,
        *,
        seconds: float | None = None,
        priority: Priority = Priority.LIVE,
    ) -> Future[Tensors]:
        """Queue tensors as they are, and return the future of the model's outputs.

        Whatever the version's output is, nothing is ranked. They share batches with rows' turns.

        Args:
            inputs: Arrays by name, with the same number of rows.
            seconds: How long the outputs are of use to anyone; None: the model's time-out.
            priority: What goes first when not everything can.

        Raises:
            InvalidInput: They are not what the model takes; the field is ``inputs``, with a name.
            QueueFull: Too much is queued.
            ModelNotReady: The engine is closed, or cannot be reached.
        """
        return self._engine.infer(
            checked_tensors(inputs, self.record.signature),
            seconds=self.record.timeout if seconds is None else seconds,
            priority=priority,
        )

    @property
    def counted_by(self) -> str:
        """The name of the engine that `stats` are of."""
        return self._engine.counted_by

    def raise_priority(
        self, future: Future[Ranking], priority: Priority, *, seconds: float = 0.0
    ) -> None:
        """Let a queued row go before those of lower priority: see `Engine.raise_priority`."""
        self._engine.raise_priority(future, priority, seconds=seconds)

    def stats(self) -> BatcherStats:
        """Return what its engine counted."""
        return self._engine.stats()

    def close(self) -> None:
        """Finish what is queued, and free the model."""
        with ExitStack() as closing:  # each is closed, even if one of them raises
            if self._source is not None:
                closing.callback(self._source.close)
            closing.callback(self._engine.close)


def open_version(
    record: VersionRecord,
    *,
    store: Path,
    registry: PluginRegistry,
    open_engine: OpenEngine = engines.open_engine,
) -> LiveVersion:
    """Load a registered version, and return it when a probe batch has succeeded.

    Its catalogue and its feature source are in this process; ``open_engine`` says where its model
    runs.

    Raises:
        ArtifactRejected: The artifact is not what was registered, or cannot be loaded.
        PluginError: A plugin it names does not exist, or refuses its options.
        InferenceError: The probe batch failed.
    """
    catalogue = NO_CATALOGUE
    if record.catalogue:
        path = registered_file(store, record.catalogue, record.catalogue_sha256)
        catalogue = read_catalogue(path)
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
        live = LiveVersion(
            record,
            engine=engine,
            catalogue=catalogue,
            source=source,
            source_failed=_counted_by(registry, record.feature_source),
        )
        undo.pop_all()
    return live


def _counted_by(registry: PluginRegistry, source: str) -> Callable[[Exception], object] | None:
    """Return what counts the failures of a feature source; nothing can be done without it."""
    if not source:
        return None
    part = registry.part("feature_sources", source)
    return functools.partial(registry.failures.note, *part, switches_off=False)


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
    spared = {given["name"] for given in record.feature_schema if "default" in given}
    missing = [name for name in record.feature_names if name not in at and name not in spared]
    if missing:
        raise ArtifactRejected(
            f"The feature source {record.feature_source} lacks {', '.join(missing[:5])}, which "
            f"{record.label} takes."
        )
    if record.feature_schema:
        return None  # its features go by their names
    return np.array([at[name] for name in record.feature_names], dtype=np.intp)


def _layout(record: VersionRecord, catalogue: Catalogue) -> Layout:
    """Return how requests' features become rows."""
    if record.output == "raw":
        return NoLayout(record.label)
    return layout_of(
        record.feature_names,
        record.feature_schema,
        record.signature,
        catalogue=catalogue.position,
        items=len(catalogue.items),
    )


def _fingerprint(record: VersionRecord) -> str:
    parts = [record.sha256, record.catalogue_sha256, record.item_vectors_sha256]
    if record.feature_schema or record.output_options:
        meaning = [list(record.feature_schema), record.output, dict(record.output_options)]
        parts.append(json.dumps(meaning, sort_keys=True))
    return hashlib.blake2b("".join(parts).encode(), digest_size=4).hexdigest()
