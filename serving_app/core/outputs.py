"""From what a model returns to the best positions in the catalogue, for a whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from plugins import ArtifactRejected, InferenceError, Tensors
from serving_app.core.top_k import best_first, top_k, top_k_of_products

__all__ = [
    "OUTPUTS",
    "Best",
    "Ranker",
    "infer_output",
    "ranker_of",
    "read_item_vectors",
]

OUTPUTS = ("scores", "top_k", "embedding", "raw")
"""What a model's output can be."""

_OPTIONS: Mapping[str, frozenset[str]] = {
    "scores": frozenset({"output"}),
    "top_k": frozenset({"items", "scores", "items_are"}),
    "embedding": frozenset({"output", "metric"}),
    "raw": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Best:
    """The best of a batch."""

    positions: NDArray[np.intp]
    """``(batch, found)``, best first."""
    scores: NDArray[np.floating]
    """``(batch, found)``."""
    sound: NDArray[np.bool_]
    """``(batch,)``: whether the model's answer to the row can be used."""
    problem: str
    """What is wrong with the rows that are not sound."""


class Ranker(Protocol):
    """Reads one kind of output. Batcher threads call it, several at once."""

    def best(self, outputs: Tensors, rows: int, depth: int) -> Best:
        """Return the ``depth`` best of each row, or as many as the model gives.

        Raises:
            InferenceError: The outputs are not of the kind and size that was registered.
        """


class _Scores:
    """Scores over the whole catalogue."""

    def __init__(self, label: str, options: Mapping[str, Any], items: int) -> None:
        self._label = label
        self._output = options.get("output")
        self._items = items

    def best(self, outputs: Tensors, rows: int, depth: int) -> Best:
        """Return the best of all scores: see `Ranker.best`."""
        scores = _output(outputs, self._output, self._label)
        if scores.shape != (rows, self._items):
            raise InferenceError(
                f"{self._label} returned scores of shape {scores.shape} for "
                f"{rows} rows and {self._items} items."
            )
        finite: NDArray[np.bool_] = np.isfinite(scores).all(axis=1)
        if not finite.all():
            scores = np.where(finite[:, None], scores, 0)
        positions, best = top_k(scores, depth)
        return Best(positions, best, finite, f"{self._label} returned scores that are not finite.")


class _TopK:
    """The best items, found by the model itself."""

    def __init__(
        self, label: str, options: Mapping[str, Any], items: int, ids: Sequence[str]
    ) -> None:
        self._label = label
        self._names = (options.get("items"), options.get("scores"))
        self._items = items
        self._ids = _IdTable(ids) if options.get("items_are") == "ids" else None

    def best(self, outputs: Tensors, rows: int, depth: int) -> Best:
        """Return what the model found, checked and in order: see `Ranker.best`."""
        found, scores = (_output(outputs, name, self._label) for name in self._names)
        if found.shape != scores.shape or found.ndim != 2 or len(found) != rows:
            raise InferenceError(
                f"{self._label} returned items of shape {found.shape} and scores of shape "
                f"{scores.shape} for {rows} rows."
            )
        positions = found if self._ids is None else self._ids.positions(found)
        rising = np.sort(positions, axis=1)
        sound = (
            np.isfinite(scores).all(axis=1)
            & (rising[:, 0] >= 0)
            & (rising[:, -1] < self._items)
            & (rising[:, 1:] != rising[:, :-1]).all(axis=1)
        )
        positions = np.where(sound[:, None], positions, 0)
        positions, best = best_first(positions, np.where(sound[:, None], scores, 0), depth)
        return Best(
            positions,
            best,
            sound,
            f"{self._label} returned scores that are not finite, or items that are twice there or "
            "not in the catalogue.",
        )


class _Embedding:
    """A vector of the user, to be compared with one of each item."""

    def __init__(
        self, label: str, options: Mapping[str, Any], vectors: NDArray[np.float32]
    ) -> None:
        self._label = label
        self._output = options.get("output")
        self._cosine = options.get("metric") == "cosine"
        self._vectors = _normalised(vectors) if self._cosine else vectors

    def best(self, outputs: Tensors, rows: int, depth: int) -> Best:
        """Return the items of the largest products: see `Ranker.best`."""
        users = _output(outputs, self._output, self._label).astype(np.float32, copy=False)
        if users.shape != (rows, self._vectors.shape[1]):
            raise InferenceError(
                f"{self._label} returned vectors of shape {users.shape} for {rows} rows; the "
                f"items' have {self._vectors.shape[1]} numbers."
            )
        sound: NDArray[np.bool_] = np.all(np.isfinite(users), axis=1)
        users = np.where(sound[:, None], users, np.float32(0))
        positions, best = top_k_of_products(
            _normalised(users) if self._cosine else users, self._vectors, depth
        )
        sound &= np.isfinite(best).all(axis=1)
        return Best(positions, best, sound, f"{self._label} returned vectors that are not finite.")


def ranker_of(
    kind: str,
    options: Mapping[str, Any],
    *,
    label: str,
    items: int,
    ids: Sequence[str] = (),
    vectors: NDArray[np.float32] | None = None,
) -> Ranker:
    """Return what reads a kind of output that ranks items.

    Args:
        kind: One of `OUTPUTS`, but not ``raw``.
        options: Which outputs they are, as `infer_output` completed them.
        label: What messages call the version.
        items: How many items the catalogue has.
        ids: Their ids, for a ``top_k`` that returns ids.
        vectors: Their vectors, for an ``embedding``.
    """
    if kind == "top_k":
        return _TopK(label, options, items, ids)
    if kind == "embedding":
        assert vectors is not None, "an embedding was registered with item vectors"
        return _Embedding(label, options, vectors)
    return _Scores(label, options, items)


def infer_output(
    kind: str, options: Mapping[str, Any], outputs: Tensors, *, items: int, vectors: int
) -> tuple[str, dict[str, Any]]:
    """Return what a model's output is, and which of its tensors.

    Args:
        kind: One of `OUTPUTS`; empty: whatever the outputs look like.
        options: Those that were declared.
        outputs: What the model returned.
        items: How many items the catalogue has; 0: there is none.
        vectors: How many numbers the items' vectors have; 0: there are none.

    Raises:
        ArtifactRejected: It is not of that kind, or of none.
    """
    if not kind:
        kind = _likely(outputs, items, vectors)
    if kind not in OUTPUTS:
        raise ArtifactRejected(f"output must be one of {', '.join(OUTPUTS)}, not {kind!r}.")
    unknown = sorted(options.keys() - _OPTIONS[kind])
    if unknown:
        allowed = ", ".join(sorted(_OPTIONS[kind])) or "none"
        raise ArtifactRejected(f"An output {kind} has no option {unknown[0]!r}; it has {allowed}.")
    if kind == "raw":
        return kind, {}
    if not items:
        raise ArtifactRejected(f"An output {kind} needs the catalogue of its items.")
    if (kind == "embedding") != bool(vectors):
        raise ArtifactRejected(
            "An output embedding needs the items' vectors (item_vectors)."
            if kind == "embedding"
            else f"Item vectors are for an output embedding, not for {kind}."
        )
    if kind == "top_k":
        return kind, _top_k_options(outputs, options)
    width = vectors or items
    floats = {n: a for n, a in outputs.items() if a.ndim == 2 and a.dtype.kind == "f"}
    fitting = [name for name, array in floats.items() if array.shape[1] == width]
    name = options.get("output") or (fitting or list(outputs))[0]
    chosen = outputs.get(name)
    if chosen is None:
        raise ArtifactRejected(f"The model has no output {name!r}; it has {', '.join(outputs)}.")
    _check_width(kind, name, chosen, width)
    if options.get("metric", "inner_product") not in {"inner_product", "cosine"}:
        raise ArtifactRejected("metric must be inner_product or cosine.")
    return kind, {**options, "output": name}


def read_item_vectors(path: Path, items: int) -> NDArray[np.float32]:
    """Return the items' vectors of a ``.npy`` file: ``(items, d)``, in the catalogue's order.

    Raises:
        ArtifactRejected: It is no such file.
    """
    try:
        with path.open("rb") as file:
            vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactRejected(f"{path.name} is no .npy file of numbers: {error}") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise ArtifactRejected(f"{path.name} must hold floats of the shape (items, d).")
    if len(vectors) != items:
        raise ArtifactRejected(
            f"{path.name} has vectors of {len(vectors)} items, but the catalogue lists {items}. "
            "They must be the same, in the same order."
        )
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not vectors.shape[1] or not np.isfinite(vectors).all():
        raise ArtifactRejected(f"{path.name} holds numbers that are NaN or infinite, or none.")
    return vectors


def _likely(outputs: Tensors, items: int, vectors: int) -> str:
    if not items:
        return "raw"
    if vectors:
        return "embedding"
    kinds = {array.dtype.kind for array in outputs.values() if array.ndim == 2}
    if len(outputs) == 2 and "f" in kinds and kinds & set("iuOSU"):
        return "top_k"
    return "scores"


def _check_width(kind: str, name: str, array: NDArray[Any], width: int) -> None:
    if array.ndim != 2 or array.dtype.kind != "f":
        wanted = "(rows, items)" if kind == "scores" else "(rows, d)"
        raise ArtifactRejected(
            f"The model returned {name} of shape {array.shape} and type {array.dtype}; it must "
            f"return floats of the shape {wanted}."
        )
    if array.shape[1] != width and kind == "scores":
        raise ArtifactRejected(
            f"The model scores {array.shape[1]} items, but the catalogue lists {width}. "
            "They must be the same, in the same order."
        )
    if array.shape[1] != width:
        raise ArtifactRejected(
            f"The model returned vectors of {array.shape[1]} numbers, but the items' vectors have "
            f"{width}."
        )


def _top_k_options(outputs: Tensors, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a ``top_k``, completed by the outputs' datatypes."""
    floats = [name for name, array in outputs.items() if array.dtype.kind == "f"]
    others = [name for name, array in outputs.items() if array.dtype.kind in "iuOSU"]
    items = options.get("items") or (others[0] if others else "")
    scores = options.get("scores") or (floats[0] if floats else "")
    if items not in outputs or scores not in outputs:
        raise ArtifactRejected(
            "An output top_k is two tensors, whole numbers or strings (the items) and floats "
            f"(their scores); the model returned {', '.join(outputs)}."
        )
    found, of = outputs[items], outputs[scores]
    if found.shape != of.shape or found.ndim != 2 or not found.shape[1]:
        raise ArtifactRejected(
            f"The model returned {items} of shape {found.shape} and {scores} of shape {of.shape}; "
            "both must be (rows, k)."
        )
    text = found.dtype.kind in "OSU"
    items_are = options.get("items_are") or ("ids" if text else "positions")
    if items_are not in {"ids", "positions"} or (text and items_are != "ids"):
        raise ArtifactRejected("items_are must be positions (of whole numbers) or ids.")
    return {"items": items, "scores": scores, "items_are": items_are}


def _output(outputs: Tensors, name: str | None, label: str) -> NDArray[Any]:
    """Return the output of a name; without one, the first."""
    if name is None:
        return next(iter(outputs.values()))
    try:
        return outputs[name]
    except KeyError as error:
        raise InferenceError(
            f"{label} returned {', '.join(outputs)}, and no {name}, as it did when registered."
        ) from error


class _IdTable:
    """Finds the positions of item ids, for whole arrays; -1: there is no such item."""

    def __init__(self, ids: Sequence[str]) -> None:
        names = np.array([item.encode() for item in ids])
        self._order = np.argsort(names)
        self._names = names[self._order]

    def positions(self, found: NDArray[Any]) -> NDArray[np.intp]:
        """Return the position of each id."""
        if found.dtype.kind in "iu":
            text = found.astype("S20")
        elif found.dtype.kind == "O":
            text = np.array([i if isinstance(i, bytes) else str(i).encode() for i in found.flat])
            text = text.reshape(found.shape)
        else:
            text = np.strings.encode(found, "utf-8") if found.dtype.kind == "U" else found
        at = np.minimum(np.searchsorted(self._names, text), len(self._names) - 1)
        return np.where(self._names[at] == text, self._order[at], -1)


def _normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(vectors / lengths, dtype=np.float32)
