"""From a request's features to the row that the model takes, or `InvalidInput`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from plugins import ArtifactRejected, InvalidInput, Signature, Tensors, TensorSpec

__all__ = [
    "FeatureLayout",
    "Layout",
    "NoLayout",
    "Row",
    "in_order",
    "reordered",
    "simple_layout",
]

Row: TypeAlias = tuple[NDArray[Any], ...]
"""One request's features: a one-dimensional array for each input that features fill."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_NUMBERS = frozenset({int, float})


class Layout(Protocol):
    """The features of one model version, and how they fill the model's inputs."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in the declared order."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that `tensors` gives, in the model's order."""

    def row(self, features: Mapping[str, Any] | Sequence[Any]) -> Row:
        """Return the row of a request's features.

        A mapping is ordered by the declared names, never by the client's order.

        Raises:
            InvalidInput: A feature is missing, unknown or not as declared; the message and the
                field name it.
        """

    def tensors(self, rows: Sequence[Row]) -> Tensors:
        """Return the model's inputs for a batch of rows, which are one or more."""

    def samples(self, batch: int, rng: np.random.Generator) -> list[Row]:
        """Return rows to try the model with; the first has the largest indices there are."""

    def blank(self) -> Row:
        """Return a row of zeros."""


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """The simple case: named numbers, which are the columns of the model's only input."""

    names: tuple[str, ...]
    """The declared feature names; position = column of the input tensor."""
    input: str = "features"
    """The name of the input tensor."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The only input."""
        return (TensorSpec(self.input, "FP32", (-1, len(self.names))),)

    def row(self, features: Mapping[str, Any] | Sequence[Any]) -> Row:
        """Return a ``(len(names),)`` float32 array, in a tuple: see `Layout.row`."""
        return (self._checked(in_order(self.names, features)),)

    def tensors(self, rows: Sequence[Row]) -> Tensors:
        """Return the ``(batch, len(names))`` float32 tensor."""
        return {self.input: np.array([row[0] for row in rows])}

    def samples(self, batch: int, rng: np.random.Generator) -> list[Row]:
        """Return rows of normal numbers."""
        return [(row,) for row in rng.standard_normal((batch, len(self.names)), dtype=np.float32)]

    def blank(self) -> Row:
        """Return a row of zeros."""
        return (np.zeros(len(self.names), dtype=np.float32),)

    def _checked(self, values: Sequence[Any]) -> NDArray[np.float32]:
        if _are_plain(values):
            return np.array(values, dtype=np.float32)
        for name, value in zip(self.names, values, strict=True):
            # bool is an int to Python, but a client that sends true means no number.
            if type(value) is not float and type(value) is not int:
                raise InvalidInput(
                    f"Feature {name} must be a number, not {type(value).__name__}.",
                    field=f"features.{name}",
                )
            if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
                nan = type(value) is float and math.isnan(value)
                what = "NaN" if nan else "outside the range of a 32-bit float"
                raise InvalidInput(
                    f"Feature {name} must be finite; it is {what}.", field=f"features.{name}"
                )
        return np.array(values, dtype=np.float32)


def _are_plain(values: Sequence[Any]) -> bool:
    """Return whether all are finite numbers in range, in a fifth of the time that a loop takes.

    A NaN hides from ``min`` and ``max``, but not from the sum.
    """
    if not values or not _NUMBERS.issuperset(map(type, values)):
        return False
    if not (min(values) >= -_FLOAT32_MAX and max(values) <= _FLOAT32_MAX):
        return False
    total = sum(values)
    return bool(total == total)  # noqa: PLR0124  (NaN alone differs from itself)


def reordered(row: Row, layout: Layout, wanted: Layout) -> Row | None:
    """Return a row of one layout as another wants it; None: nothing says what it would be.

    That can be said if they are equal, or both are the simple case with the same features.
    """
    if layout == wanted:
        return row
    if not isinstance(layout, FeatureLayout) or not isinstance(wanted, FeatureLayout):
        return None
    if layout.names == wanted.names:
        return row
    if sorted(layout.names) != sorted(wanted.names):
        return None
    at = {name: i for i, name in enumerate(layout.names)}
    return (row[0][[at[name] for name in wanted.names]],)


@dataclass(frozen=True, slots=True)
class NoLayout:
    """The layout of a version that returns raw tensors: it takes no request for items."""

    label: str
    """What messages call the version."""
    names: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()

    def refusal(self) -> InvalidInput:
        """Return the error that such a request gets."""
        return InvalidInput(
            f"{self.label} returns raw tensors, and recommends nothing: it is for the Open "
            "Inference Protocol.",
            field="model_name",
        )

    def row(self, features: Mapping[str, Any] | Sequence[Any]) -> Row:
        """Refuse.

        Raises:
            InvalidInput: Always.
        """
        raise self.refusal()

    def tensors(self, rows: Sequence[Row]) -> Tensors:
        """Return nothing, for no rows."""
        return {}

    def samples(self, batch: int, rng: np.random.Generator) -> list[Row]:
        """Return empty rows."""
        return [()] * batch

    def blank(self) -> Row:
        """Return an empty row."""
        return ()


def simple_layout(names: tuple[str, ...], signature: Signature | None) -> FeatureLayout:
    """Return the layout of a list of feature names.

    Args:
        names: The feature names.
        signature: What the model takes; None: one input, by position.

    Raises:
        ArtifactRejected: The model takes inputs that such features do not fill.
    """
    if signature is None:
        return FeatureLayout(names)
    if len(signature.inputs) != 1:
        given = ", ".join(spec.name for spec in signature.inputs) or "none"
        raise ArtifactRejected(
            f"The model must take one input; it takes {given}. For several inputs, declare the "
            "features by a schema (feature_schema)."
        )
    taken = signature.inputs[0]
    if taken.datatype != "FP32" or len(taken.shape) != 2:
        raise ArtifactRejected(
            f"The input {taken.name} is {taken.datatype} {list(taken.shape)}; it must be FP32 with "
            "the shape (batch, features). For others, declare the features by a schema "
            "(feature_schema)."
        )
    if taken.shape[0] != -1:
        raise ArtifactRejected(
            f"The model takes only batches of {taken.shape[0]} rows; export it with a free batch "
            "dimension."
        )
    if taken.shape[1] not in {-1, len(names)}:
        raise ArtifactRejected(
            f"The model takes {taken.shape[1]} features, but {len(names)} feature names are "
            "declared."
        )
    return FeatureLayout(names, taken.name)


def in_order(
    names: Sequence[str],
    features: Mapping[str, Any] | Sequence[Any],
    defaults: Mapping[str, Any] | None = None,
) -> Sequence[Any]:
    """Return the values of features in the declared order.

    Args:
        names: The declared names.
        features: By name, or in the declared order.
        defaults: Values of features that may be missing.

    Raises:
        InvalidInput: A feature is missing or unknown.
    """
    if not isinstance(features, Mapping):
        if len(features) != len(names):
            raise InvalidInput(
                f"features has {len(features)} values, but the model takes {len(names)}: "
                f"{_some(names)}.",
                field="features",
            )
        return features
    if defaults:
        features = {**defaults, **features}
    missing = [name for name in names if name not in features]
    if missing:
        raise InvalidInput(
            f"Missing features: {_some(missing)}. The model takes {len(names)}: {_some(names)}.",
            field=f"features.{missing[0]}",
        )
    if len(features) > len(names):
        extra = sorted(str(name) for name in features.keys() - set(names))
        raise InvalidInput(
            f"Unknown features: {_some(extra)}. The model takes only {_some(names)}.",
            field=f"features.{extra[0]}",
        )
    return [features[name] for name in names]


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
