"""Runs one model version: rows in, the best positions of the catalogue out, in batches."""

from __future__ import annotations

import dataclasses
import itertools
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from plugins import ArtifactRejected, HostedModel, InferenceError, ModelSpec, Priority, Tensors
from plugins.registry import PluginRegistry
from serving_app.core.admission import Admission
from serving_app.core.allocator import keep_freed_memory
from serving_app.core.artifacts import digest, locate
from serving_app.core.batcher import Batcher, BatcherStats, Instances
from serving_app.core.features import Layout, Row
from serving_app.core.outputs import Ranker, ranker_of, read_item_vectors
from serving_app.core.ranking import read_catalogue
from serving_app.core.resident import resident_bytes
from serving_app.core.run_counts import RunCounter
from serving_app.core.schema_layout import layout_of
from serving_app.core.tensors import join, part
from serving_app.core.version_record import VersionRecord

__all__ = ["Engine", "Finish", "LocalEngine", "OpenEngine", "open_engine", "registered_file"]

Result = TypeVar("Result")


Finish = Callable[[NDArray[np.intp], NDArray[np.floating]], Result]
"""Makes a result of one row's positions in the catalogue and their scores, best first."""


class Engine(Protocol[Result]):
    """What answers rows for one model version: in this process, or in the model host."""

    @property
    def counted_by(self) -> str:
        """Names the engine that `stats` are of; processes that share one name the same."""

    def submit(
        self,
        row: Row,
        depth: int,
        *,
        seconds: float,
        priority: Priority,
        key: str | None = None,
    ) -> Future[Result]:
        """Queue one row, and return the future of its result, ``depth`` positions deep.

        Any thread calls it. Cancelling the future before its batch starts takes the row out.

        Args:
            row: The features, as the version's layout made them.
            depth: How many positions are wanted; no more than the catalogue has.
            seconds: How long the result is of use to anyone, from now on.
            priority: What goes first when not everything can.
            key: Recognises a caller who was refused, and comes back when told to.

        Raises:
            QueueFull: Too many rows are queued, or they leave too little time for this one.
            ModelNotReady: The engine is closed, or cannot be reached.
        """

    def infer(self, inputs: Tensors, *, seconds: float, priority: Priority) -> Future[Tensors]:
        """Queue tensors as they are, and return the future of the model's outputs.

        Args:
            inputs: Arrays of the registered datatypes and shapes, with the same number of rows.
            seconds: How long the outputs are of use to anyone, from now on.
            priority: What goes first when not everything can.

        Raises:
            QueueFull: Too much is queued.
            ModelNotReady: The engine is closed, or cannot be reached.
        """

    def raise_priority(
        self, future: Future[Result], priority: Priority, *, seconds: float = 0.0
    ) -> None:
        """Let a queued row go before those of lower priority.

        Args:
            future: What `submit` returned; nothing happens if its row is not queued any more.
            priority: The better priority; a lower one changes nothing.
            seconds: How long its result is of use, from now on, if that is longer than was said.
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


_numbers = itertools.count(1)
"""Of the engines of this process."""
_began = secrets.token_hex(4)
"""Tells the engines of this process from those of another that had its id before."""


class _Ranked(NamedTuple):
    """One queued request: its feature row, and how deep its ranking must go."""

    row: Row
    depth: int


class LocalEngine(Generic[Result]):
    """An engine in this process. Built by `open_engine`.

    Args:
        record: The version.
        hosted: Its model.
        layout: How rows fill its inputs; None: it takes only tensors.
        ranker: Reads its outputs; None: they are raw.
        items: How many items the catalogue has.
        finish: Makes the results; called on batcher threads.
    """

    def __init__(
        self,
        record: VersionRecord,
        *,
        hosted: HostedModel,
        layout: Layout | None,
        ranker: Ranker | None,
        items: int,
        finish: Finish[Result],
    ) -> None:
        self._signature = record.signature
        self.counted_by = f"{socket.gethostname()}:{os.getpid()}/{_began}-{next(_numbers)}"
        self._hosted = hosted
        self._layout = layout
        self._ranker = ranker
        self._items = items
        self._finish = finish
        self._runs = RunCounter()
        self.memory: int | None = None
        """Bytes by which the process grew when this was opened; None: that is not known."""
        self._batcher: Batcher[_Ranked | Tensors, Result | Tensors] = Batcher(
            self._run,
            name=record.label,
            max_batch=record.max_batch,
            max_queue=record.max_queue,
            max_wait=record.max_wait,
            instances=Instances(hosted),
            admission=Admission(max_batch=record.max_batch, headroom=record.headroom),
        )

    def submit(
        self,
        row: Row,
        depth: int,
        *,
        seconds: float,
        priority: Priority,
        key: str | None = None,
    ) -> Future[Result]:
        """Queue one row: see `Engine.submit`."""
        future = self._batcher.submit(
            _Ranked(row, min(depth, self._items)), seconds=seconds, priority=priority, key=key
        )
        return cast("Future[Result]", future)

    def infer(self, inputs: Tensors, *, seconds: float, priority: Priority) -> Future[Tensors]:
        """Queue tensors: see `Engine.infer`."""
        rows = len(next(iter(inputs.values())))
        future = self._batcher.submit(inputs, size=rows, seconds=seconds, priority=priority)
        return cast("Future[Tensors]", future)

    def raise_priority(
        self, future: Future[Result], priority: Priority, *, seconds: float = 0.0
    ) -> None:
        """Let a queued row go earlier: see `Engine.raise_priority`."""
        self._batcher.raise_priority(future, priority, seconds=seconds)

    def probe(self) -> None:
        """Run one batch through the model: see `Engine.probe`."""
        result = self._results([self._blank()], RunCounter())[0]
        if isinstance(result, Exception):
            raise result

    def _blank(self) -> _Ranked | Tensors:
        """Return work to try the model with."""
        if self._layout is not None and self._ranker is not None:
            return _Ranked(self._layout.blank(), 1)
        assert self._signature is not None, "raw models are registered with their signature"
        return {
            spec.name: np.zeros([1, *(max(n, 1) for n in spec.shape[1:])], dtype=spec.dtype)
            for spec in self._signature.inputs
        }

    def stats(self) -> BatcherStats:
        """Return what its batcher counted, and the runs of its model."""
        return dataclasses.replace(
            self._batcher.stats(), runs=self._runs.counts(), memory=self.memory
        )

    def close(self) -> None:
        """Finish what is queued, and free the model."""
        with ExitStack() as closing:  # each is closed, even if one of them raises
            closing.callback(self._hosted.close)
            closing.callback(self._batcher.close)

    def _run(self, works: Sequence[_Ranked | Tensors]) -> list[Result | Tensors | Exception]:
        """Return the results of a batch. Runs on a batcher thread."""
        try:
            return self._results(works, self._runs)
        except Exception:
            if len(works) == 1:  # of several, the batcher will try each
                self._runs.failed(1)
            raise

    def _results(
        self, works: Sequence[_Ranked | Tensors], runs: RunCounter
    ) -> list[Result | Tensors | Exception]:
        ranked = [work for work in works if isinstance(work, _Ranked)]
        if len(ranked) == len(works):
            return self._rank(ranked, runs)
        tensors = [work for work in works if not isinstance(work, _Ranked)]
        rankings = iter(self._rank(ranked, runs) if ranked else ())
        outputs = iter(self._infer(tensors, runs))
        return [next(rankings) if isinstance(work, _Ranked) else next(outputs) for work in works]

    def _rank(
        self, works: Sequence[_Ranked], runs: RunCounter
    ) -> list[Result | Tensors | Exception]:
        """Return the results of rows."""
        assert self._layout is not None, "a raw model ranks nothing"
        assert self._ranker is not None, "a raw model ranks nothing"
        begin = time.perf_counter()
        inputs = self._layout.tensors([work.row for work in works])
        started = time.perf_counter()
        outputs = self._hosted.run(inputs)
        ended = time.perf_counter()
        best = self._ranker.best(outputs, len(works), max([work.depth for work in works]))
        results: list[Result | Tensors | Exception] = [
            self._finish(positions[: work.depth], scores[: work.depth])
            if sound
            else InferenceError(best.problem)
            for work, positions, scores, sound in zip(
                works, best.positions, best.scores, best.sound.tolist(), strict=True
            )
        ]
        if not best.sound.all():
            runs.failed(len(works) - int(np.count_nonzero(best.sound)))
        runs.ran(len(works), at=(begin, started, ended, time.perf_counter()))
        return results

    def _infer(self, works: Sequence[Tensors], runs: RunCounter) -> list[Tensors]:
        """Return the outputs for tensors; those that fit together are run together."""
        results: dict[int, Tensors] = {}
        for indices, inputs in join(works):
            started = time.perf_counter()
            outputs = self._hosted.run(inputs)
            ended = time.perf_counter()
            counts = [len(next(iter(works[i].values()))) for i in indices]
            results.update(zip(indices, part(outputs, counts), strict=True))
            runs.ran(sum(counts), at=(started, started, ended, time.perf_counter()))
        return [results[i] for i in range(len(works))]


class OpenEngine(Protocol):
    """Loads a version where it is to run: `open_engine` in this process."""

    def __call__(
        self,
        record: VersionRecord,
        *,
        store: Path,
        registry: PluginRegistry,
        items: int,
        finish: Finish[Result],
    ) -> Engine[Result]:
        """Return the engine when a probe has succeeded: see `open_engine`."""


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
    before = resident_bytes()
    ranker = _open_ranker(record, store=store, items=items)
    layout = (
        layout_of(record.feature_names, record.feature_schema, record.signature, items=items)
        if ranker is not None
        else None
    )
    keep_freed_memory()
    framework = registry.frameworks.create(record.framework, record.framework_options)
    executor = registry.executors.create(record.executor, record.executor_options)
    hosted = executor.host(spec, lambda: framework.load(spec))
    with ExitStack() as undo:
        undo.callback(hosted.close)
        engine = LocalEngine(
            record, hosted=hosted, layout=layout, ranker=ranker, items=items, finish=finish
        )
        undo.pop_all()
        undo.callback(engine.close)
        engine.probe()
        undo.pop_all()
    after = resident_bytes()
    if before is not None and after is not None:
        engine.memory = max(0, after - before)
    return engine


def _open_ranker(record: VersionRecord, *, store: Path, items: int) -> Ranker | None:
    """Return what reads the version's outputs; None: they are raw."""
    if record.output == "raw":
        return None
    vectors = None
    ids: Sequence[str] = ()
    if record.output == "embedding":
        path = registered_file(store, record.item_vectors, record.item_vectors_sha256)
        vectors = read_item_vectors(path, items)
    elif record.output_options.get("items_are") == "ids":
        path = registered_file(store, record.catalogue, record.catalogue_sha256)
        ids = read_catalogue(path).items
    return ranker_of(
        record.output,
        record.output_options,
        label=record.label,
        items=items,
        ids=ids,
        vectors=vectors,
    )


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
