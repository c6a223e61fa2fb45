"""Runs one model version: rows in, the best positions of the catalogue out, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from plugins import ArtifactRejected, HostedModel, InferenceError, ModelSpec, Priority
from plugins.registry import PluginRegistry
from serving_app.core.artifacts import digest, locate
from serving_app.core.batcher import Batcher, BatcherStats
from serving_app.core.top_k import top_k
from serving_app.core.version_record import VersionRecord

__all__ = ["Engine", "Finish", "LocalEngine", "open_engine", "registered_file"]

Result = TypeVar("Result")


Finish = Callable[[NDArray[np.intp], NDArray[np.floating]], Result]
"""Makes a result of one row's positions in the catalogue and their scores, best first."""


class Engine(Protocol[Result]):
    """What answers rows for one model version: in this process, or in the model host."""

    def submit(
        self, row: NDArray[np.float32], depth: int, *, seconds: float, priority: Priority
    ) -> Future[Result]:
        """Queue one row, and return the future of its result, ``depth`` positions deep.

        Any thread calls it. Cancelling the future before its batch starts takes the row out.

        Args:
            row: The features, in the model's order.
            depth: How many positions are wanted; no more than the catalogue has.
            seconds: How long the result is of use to anyone, from now on.
            priority: What goes first when not everything can.

        Raises:
            QueueFull: Too many rows are queued.
            ModelNotReady: The engine is closed, or cannot be reached.
        """

    def probe(self) -> None:
        """Run one batch through the model, as a request would.

        Raises:
            InferenceError: The model cannot answer.
        """

    def stats(self) -> BatcherStats:
        """Return what was counted."""

    def close(self) -> None:
        """Finish what is queued, and free the model."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One queued request: its feature row, and how deep its ranking must go."""

    features: NDArray[np.float32]
    depth: int


class LocalEngine(Generic[Result]):
    """An engine in this process. Built by `open_engine`.

    Args:
        record: The version.
        hosted: Its model.
        items: How many items the catalogue has.
        finish: Makes the results; called on batcher threads.
    """

    def __init__(
        self, record: VersionRecord, *, hosted: HostedModel, items: int, finish: Finish[Result]
    ) -> None:
        self._label = record.label
        self._features = len(record.feature_names)
        self._hosted = hosted
        self._items = items
        self._finish = finish
        signature = record.signature
        self._input = signature.inputs[0].name if signature else "features"
        self._batcher: Batcher[_Row, Result] = Batcher(
            self._run,
            name=record.label,
            max_batch=record.max_batch,
            max_queue=record.max_queue,
            threads=hosted.instances,
        )

    def submit(
        self, row: NDArray[np.float32], depth: int, *, seconds: float, priority: Priority
    ) -> Future[Result]:
        """Queue one row: see `Engine.submit`."""
        return self._batcher.submit(_Row(row, min(depth, self._items)))

    def probe(self) -> None:
        """Run one batch through the model: see `Engine.probe`."""
        result = self._run([_Row(np.zeros(self._features, dtype=np.float32), 1)])[0]
        if isinstance(result, Exception):
            raise result

    def stats(self) -> BatcherStats:
        """Return what its batcher counted."""
        return self._batcher.stats()

    def close(self) -> None:
        """Finish what is queued, and free the model."""
        with ExitStack() as closing:  # each is closed, even if one of them raises
            closing.callback(self._hosted.close)
            closing.callback(self._batcher.close)

    def _run(self, rows: Sequence[_Row]) -> list[Result | Exception]:
        """Return the results of a batch. Runs on a batcher thread."""
        outputs = self._hosted.run({self._input: np.stack([row.features for row in rows])})
        scores = next(iter(outputs.values()))
        if scores.shape != (len(rows), self._items):
            raise InferenceError(
                f"{self._label} returned scores of shape {scores.shape} for "
                f"{len(rows)} rows and {self._items} items."
            )
        finite = np.atleast_1d(np.isfinite(scores).all(axis=1))
        if not finite.all():
            scores = np.where(finite[:, None], scores, 0)
        positions, best = top_k(scores, max(row.depth for row in rows))
        return [
            self._finish(positions[i, : row.depth], best[i, : row.depth])
            if finite[i]
            else InferenceError(f"{self._label} returned scores that are not finite.")
            for i, row in enumerate(rows)
        ]


def open_engine(
    record: VersionRecord,
    *,
    store: Path,
    registry: PluginRegistry,
    items: int,
    finish: Finish[Result],
) -> LocalEngine[Result]:
    """Load a registered version in this process, and return it when a probe has succeeded.

    Raises:
        ArtifactRejected: The artifact is not what was registered, or cannot be loaded.
        PluginError: A plugin it names does not exist, or refuses its options.
        InferenceError: The probe batch failed.
    """
    spec = ModelSpec(
        model_name=record.model_name,
        version=record.version,
        framework=record.framework,
        path=registered_file(store, record.artifact, record.sha256),
        options=record.framework_options,
        signature=record.signature,
    )
    framework = registry.frameworks.create(record.framework, record.framework_options)
    executor = registry.executors.create(record.executor, record.executor_options)
    hosted = executor.host(spec, lambda: framework.load(spec))
    with ExitStack() as undo:
        undo.callback(hosted.close)
        engine = LocalEngine(record, hosted=hosted, items=items, finish=finish)
        undo.pop_all()
        undo.callback(engine.close)
        engine.probe()
        undo.pop_all()
    return engine


def registered_file(store: Path, relative: str, sha256: str) -> Path:
    """Return a file's path if it is still the one that was registered.

    Raises:
        ArtifactRejected: It is not, or it is missing.
    """
    path = locate(store, relative)
    if digest(path) != sha256:
        raise ArtifactRejected(
            f"{relative!r} is not the file that was registered: its SHA-256 differs. Restore it, "
            "or register the new file as a new version."
        )
    return path
