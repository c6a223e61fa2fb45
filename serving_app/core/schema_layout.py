"""Fills a model's inputs with features that a schema declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plugins import ArtifactRejected, InvalidInput, Signature, Tensors, TensorSpec
from serving_app.core.feature_schema import DATATYPES, Feature, read_schema
from serving_app.core.features import Layout, Row, in_order, simple_layout

__all__ = ["SchemaLayout", "layout_of"]


@dataclass(frozen=True, slots=True)
class _Input:
    """One input of the model, and what fills it."""

    spec: TensorSpec
    role: Literal["columns", "flat", "sequence", "mask", "length"]
    part: int
    """Which array of a row it is made of."""
    features: tuple[int, ...] = ()
    """Which features that array has, by their positions in the schema."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's datatype of the tensor."""
        return self.spec.dtype


class SchemaLayout:
    """Features that a schema declares: several inputs, several kinds, sequences.

    Args:
        features: The declared features.
        signature: What the model takes; None: what the schema says, in its order.

    Raises:
        ArtifactRejected: The features do not fill what the model takes.
    """

    def __init__(self, features: tuple[Feature, ...], signature: Signature | None) -> None:
        self.names = tuple(feature.name for feature in features)
        self._features = features
        self._defaults = {f.name: f.default for f in features if f.has_default}
        declared = _declared(features)
        if signature is not None:
            declared = _fitted(declared, features, signature)
        self._inputs = declared
        parts = [i for i in declared if i.role not in {"mask", "length"}]
        self._parts = sorted(parts, key=lambda each: each.part)
        self.inputs = tuple(each.spec for each in declared)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SchemaLayout):
            return NotImplemented
        return self._features == other._features and self.inputs == other.inputs

    def __hash__(self) -> int:
        return hash((self.names, self.inputs))

    def row(self, features: Mapping[str, Any] | Sequence[Any]) -> Row:
        """Return an array for each input that features fill: see `Layout.row`."""
        values = in_order(self.names, features, self._defaults)
        numbers = [f.numbers(v) for f, v in zip(self._features, values, strict=True)]
        return tuple(
            self._array([n for at in part.features for n in numbers[at]], part)
            for part in self._parts
        )

    def tensors(self, rows: Sequence[Row]) -> Tensors:
        """Return the model's inputs; sequences are padded to one length."""
        tensors: dict[str, NDArray[Any]] = {}
        for each in self._inputs:
            arrays = [row[each.part] for row in rows]
            if each.role == "columns":
                tensors[each.spec.name] = np.array(arrays)
            elif each.role == "flat":
                tensors[each.spec.name] = np.concatenate(arrays)
            else:
                tensors[each.spec.name] = self._padded(arrays, each)
        return tensors

    def samples(self, batch: int, rng: np.random.Generator) -> list[Row]:
        """Return rows to try the model with; the first has the largest indices there are."""
        return [
            tuple(
                np.array(
                    [n for at in part.features for n in _drawn(self._features[at], i, rng)],
                    dtype=part.dtype,
                )
                for part in self._parts
            )
            for i in range(batch)
        ]

    def blank(self) -> Row:
        """Return a row of zeros."""
        return tuple(np.zeros(len(part.features), dtype=part.dtype) for part in self._parts)

    def _array(self, numbers: list[float], part: _Input) -> NDArray[Any]:
        try:
            return np.array(numbers, dtype=part.dtype)
        except OverflowError as error:
            names = ", ".join(self.names[at] for at in part.features)
            raise InvalidInput(
                f"Feature {names} must fit {part.spec.datatype}.",
                field=f"features.{self.names[part.features[0]]}",
            ) from error

    def _padded(self, arrays: list[NDArray[Any]], each: _Input) -> NDArray[Any]:
        """Return a sequence's tensor, or the mask or the lengths that go with it."""
        lengths = np.array([len(array) for array in arrays])
        if each.role == "length":
            return lengths.astype(each.dtype)
        padding = self._features[each.features[0]].sequence
        assert padding is not None, "only sequences are padded"
        longest = padding.max_length
        if padding.pad_to == "longest":
            longest = max(int(lengths.max()), padding.min_length)
        present = np.arange(longest) < lengths[:, None]
        if each.role == "mask":
            return present.astype(each.dtype)
        padded = np.full((len(arrays), longest), padding.padding, dtype=each.dtype)
        padded[present] = np.concatenate(arrays)
        return padded


def layout_of(
    names: tuple[str, ...],
    schema: Sequence[Any],
    signature: Signature | None,
    *,
    catalogue: Mapping[str, int] | None = None,
    items: int = 0,
) -> Layout:
    """Return the layout of a version's features.

    Args:
        names: The feature names, where there is no schema.
        schema: The schema, or an empty list.
        signature: What the model takes, if that is known.
        catalogue: Positions by item id; only `Layout.row` needs them.
        items: How many items the catalogue has.

    Raises:
        ArtifactRejected: The schema is wrong, or the features do not fit the model.
    """
    if not schema:
        return simple_layout(names, signature)
    return SchemaLayout(read_schema(schema, catalogue=catalogue, items=items), signature)


def _declared(features: tuple[Feature, ...]) -> list[_Input]:
    """Return the inputs that a schema speaks of, in its order."""
    columns: dict[str, list[int]] = {}
    for at, feature in enumerate(features):
        columns.setdefault(feature.input, []).append(at)
    inputs: list[_Input] = []
    for part, (name, ats) in enumerate(columns.items()):
        first = features[ats[0]]
        alone = len(ats) == 1
        if not alone and any(features[at].sequence or features[at].flat for at in ats):
            raise ArtifactRejected(
                f"The input {name} has several features; a sequence, or a flat feature, needs an "
                "input of its own."
            )
        datatype = _datatype([features[at] for at in ats], name)
        if first.sequence is None:
            shape = (-1,) if first.flat else (-1, len(ats))
            role: Literal["flat", "columns"] = "flat" if first.flat else "columns"
            inputs.append(_Input(TensorSpec(name, datatype, shape), role, part, tuple(ats)))
            continue
        longest = first.sequence.max_length if first.sequence.pad_to == "max_length" else -1
        spec = TensorSpec(name, datatype, (-1, longest))
        inputs.append(_Input(spec, "sequence", part, (ats[0],)))
        if first.sequence.mask:
            spec = TensorSpec(first.sequence.mask, "BOOL", (-1, longest))
            inputs.append(_Input(spec, "mask", part, (ats[0],)))
        if first.sequence.length:
            spec = TensorSpec(first.sequence.length, "INT64", (-1,))
            inputs.append(_Input(spec, "length", part, (ats[0],)))
    names = [each.spec.name for each in inputs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArtifactRejected(f"The schema fills the input {twice[0]} twice.")
    return inputs


def _datatype(features: Sequence[Feature], name: str) -> str:
    """Return the datatype of an input, from the kinds of its features."""
    declared = {feature.datatype for feature in features} - {""}
    if len(declared) > 1:
        raise ArtifactRejected(f"The input {name} is declared as {' and '.join(sorted(declared))}.")
    if declared:
        return declared.pop()
    kinds = {DATATYPES[feature.kind] for feature in features}
    return next(each for each in ("FP32", "INT64", "BOOL") if each in kinds)


def _fitted(
    declared: list[_Input], features: tuple[Feature, ...], signature: Signature
) -> list[_Input]:
    """Return the declared inputs as the model takes them, in its order.

    Raises:
        ArtifactRejected: They are others, or of other shapes or kinds.
    """
    by_name = {each.spec.name: each for each in declared}
    taken = {spec.name: spec for spec in signature.inputs}
    if by_name.keys() != taken.keys():
        raise ArtifactRejected(
            f"The model takes the inputs {', '.join(sorted(taken))}; the feature schema fills "
            f"{', '.join(sorted(by_name))}."
        )
    return [_fit(by_name[spec.name], spec, features) for spec in signature.inputs]


def _fit(each: _Input, taken: TensorSpec, features: tuple[Feature, ...]) -> _Input:
    declared = [features[at] for at in each.features]
    name, shape, columns = taken.name, taken.shape, len(each.features)
    if not shape or shape[0] != -1:
        raise ArtifactRejected(
            f"The model takes only batches of fixed size at {name} ({list(shape)}); export it with "
            "a free batch dimension."
        )
    for feature in declared:
        if feature.datatype and feature.datatype != taken.datatype:
            raise ArtifactRejected(
                f"The input {name} is {taken.datatype}; feature {feature.name} declares "
                f"{feature.datatype}."
            )
        floats = taken.datatype.startswith("FP")
        if each.role in {"columns", "flat", "sequence"} and not (
            floats
            or (feature.kind != "float" and "INT" in taken.datatype)
            or (feature.kind == "bool" and taken.datatype == "BOOL")
        ):
            raise ArtifactRejected(
                f"The input {name} is {taken.datatype}; feature {feature.name} is {feature.kind}."
            )
    if each.role in {"columns", "flat"}:
        if len(shape) == 1 and columns == 1:
            return replace(each, spec=taken, role="flat")
        if len(shape) != 2 or shape[1] not in {-1, columns} or each.role == "flat":
            raise ArtifactRejected(
                f"The input {name} has the shape {list(shape)}; the schema gives it {columns} "
                f"column{'s' if columns > 1 else ''}."
            )
        return replace(each, spec=taken)
    padding = declared[0].sequence
    assert padding is not None, "sequences, masks and lengths come from a sequence"
    rank = 1 if each.role == "length" else 2
    if len(shape) != rank:
        raise ArtifactRejected(
            f"The input {name} has the shape {list(shape)}; as the {each.role} of feature "
            f"{declared[0].name} it would have {rank} dimension{'s' if rank > 1 else ''}."
        )
    fixed = rank == 2 and shape[1] != -1
    if fixed and (padding.pad_to != "max_length" or shape[1] != padding.max_length):
        raise ArtifactRejected(
            f"The input {name} takes sequences of {shape[1]}; declare "
            f'{{"max_length": {shape[1]}, "pad_to": "max_length"}} for feature {declared[0].name}.'
        )
    return replace(each, spec=taken)


def _drawn(feature: Feature, i: int, rng: np.random.Generator) -> list[float]:
    """Return numbers for the i-th sample row: the largest, then the smallest, then any."""
    count = 1
    if feature.sequence is not None:
        count = int(rng.integers(1, min(feature.sequence.max_length, 5) + 1))
    if feature.kind == "float":
        drawn = rng.standard_normal(count)
        if feature.minimum is not None or feature.maximum is not None:
            drawn = np.clip(drawn, feature.minimum, feature.maximum)
        return [float(value) for value in drawn]
    low, high = (0, 1) if feature.kind == "bool" else feature.indices
    if i < 2:
        return [(high, low)[i]] * count
    return [int(value) for value in rng.integers(low, high, count, endpoint=True)]
