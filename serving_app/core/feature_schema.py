"""What a version declares of each feature, where a list of names does not say enough.

A schema is a JSON list with one object per feature: see docs/features.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plugins import ArtifactRejected, InvalidInput
from plugins.datatypes import DTYPES

__all__ = ["Feature", "Padding", "bucket_of", "read_schema"]

Kind = Literal["float", "int", "bool", "string"]

DATATYPES: Mapping[str, str] = {"float": "FP32", "int": "INT64", "bool": "BOOL", "string": "INT64"}
"""The datatype of an input that features of a kind fill, unless something says otherwise."""

_KEYS = {
    "name", "type", "input", "datatype", "flat", "default", "minimum", "maximum",
    "buckets", "vocabulary", "unknown", "offset", "sequence",
}  # fmt: skip
_SEQUENCE_KEYS = {
    "max_length", "min_length", "keep", "pad_to", "padding", "mask", "length",
}  # fmt: skip
_MISSING = object()
_INT64 = np.iinfo(np.int64)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def bucket_of(text: str, buckets: int) -> int:
    """Return the bucket of a string, from 0 to ``buckets - 1``.

    The first 8 bytes of its BLAKE2b digest (of 8 bytes, over its UTF-8), as a little-endian
    number, modulo ``buckets``: the same in every process, on every machine and in every release.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets


@dataclass(frozen=True, slots=True)
class Padding:
    """How sequences of different lengths become one tensor."""

    max_length: int
    """Longer sequences are cut to it."""
    min_length: int = 1
    """Tensors are at least so long; some compiled models take no shorter ones."""
    keep: Literal["first", "last"] = "last"
    """Which end of a sequence that is too long stays."""
    pad_to: Literal["longest", "max_length"] = "longest"
    """How long a batch's tensor is: as its longest sequence, or always the same."""
    padding: float = 0
    """What stands behind a sequence that is shorter."""
    mask: str = ""
    """The input that says where values are (1) and where padding (0); empty: there is none."""
    length: str = ""
    """The input that says how long each sequence is; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One declared feature."""

    name: str
    kind: Kind
    input: str
    """The model's input that it fills, or of which it is one column."""
    datatype: str = ""
    """The input's datatype, if it is declared."""
    flat: bool = False
    """Whether the input is ``(batch,)``, without a dimension of columns."""
    default: Any = _MISSING
    """What stands for the feature where a request has none."""
    minimum: float | None = None
    maximum: float | None = None
    buckets: int = 0
    """How many buckets strings are hashed into; 0: they are looked up."""
    vocabulary: Mapping[str, int] | None = None
    """Position by string."""
    size: int = 0
    """How many positions the vocabulary has."""
    unknown: int | None = None
    """The index of strings that the vocabulary lacks; None: they are refused."""
    offset: int = 0
    """What is added to buckets and positions, so that lower indices stay free."""
    sequence: Padding | None = None
    """How sequences are padded; None: the feature is one value."""

    @property
    def has_default(self) -> bool:
        """Whether a request may lack the feature."""
        return self.default is not _MISSING

    @property
    def indices(self) -> tuple[int, int]:
        """The lowest and the highest number of an int or a string, as far as they are known."""
        if self.kind == "string":
            highest = self.offset + max(self.buckets or self.size, 1) - 1
            return self.offset, max(highest, -1 if self.unknown is None else self.unknown)
        low = 0 if self.minimum is None else int(self.minimum)
        return low, max(low, 1) if self.maximum is None else int(self.maximum)

    def numbers(self, value: Any) -> list[float]:
        """Return the numbers of a request's value: one, or those of a sequence, cut to length.

        Raises:
            InvalidInput: It is not what was declared.
        """
        if self.sequence is None:
            return [self._number(value)]
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
            raise self._wrong(f"must be a list, not {type(value).__name__}")
        most = self.sequence.max_length
        if len(value) > most:
            value = value[-most:] if self.sequence.keep == "last" else value[:most]
        return [self._number(each) for each in value]

    def _number(self, value: Any) -> float:
        if self.kind == "string":
            return self._index(value)
        if self.kind == "bool":
            if type(value) is not bool:
                raise self._wrong(f"must be true or false, not {type(value).__name__}")
            return value
        if type(value) is not int and type(value) is not float:
            wanted = "a whole number" if self.kind == "int" else "a number"
            raise self._wrong(f"must be {wanted}, not {type(value).__name__}")
        if type(value) is float and not math.isfinite(value):
            raise self._wrong("must be finite")
        if self.kind == "int":
            if type(value) is float and not value.is_integer():
                raise self._wrong(f"must be a whole number, not {value}")
            value = int(value)
            if not _INT64.min <= value <= _INT64.max:
                raise self._wrong("must fit 64 bits")
        elif not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
            raise self._wrong("must be finite; it is outside the range of a 32-bit float")
        if self.minimum is not None and value < self.minimum:
            raise self._wrong(f"must be at least {self.minimum:g}, not {value}")
        if self.maximum is not None and value > self.maximum:
            raise self._wrong(f"must be at most {self.maximum:g}, not {value}")
        return value  # type: ignore[no-any-return]  # an int or a float

    def _index(self, value: Any) -> int:
        if type(value) is not str:
            raise self._wrong(f"must be a string, not {type(value).__name__}")
        if self.buckets:
            return bucket_of(value, self.buckets) + self.offset
        found = (self.vocabulary or {}).get(value)
        if found is not None:
            return found + self.offset
        if self.unknown is None:
            raise self._wrong(f"has no value {value[:50]!r} in its vocabulary")
        return self.unknown

    def _wrong(self, what: str) -> InvalidInput:
        return InvalidInput(f"Feature {self.name} {what}.", field=f"features.{self.name}")


def read_schema(
    schema: Sequence[Any], *, catalogue: Mapping[str, int] | None = None, items: int = 0
) -> tuple[Feature, ...]:
    """Return the features that a schema declares.

    Args:
        schema: The JSON list.
        catalogue: Positions by item id, for vocabularies that are the version's catalogue.
        items: How many items the catalogue has.

    Raises:
        ArtifactRejected: It is no sound schema; the message names the feature.
    """
    if not isinstance(schema, list | tuple):
        raise ArtifactRejected("The feature schema must be a list of objects.")
    features = [_feature(given, catalogue, items) for given in schema]
    names = [feature.name for feature in features]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArtifactRejected(f"The feature {twice[0]} is declared twice.")
    for feature in features:
        if feature.has_default:
            try:
                feature.numbers(feature.default)
            except InvalidInput as error:
                raise ArtifactRejected(
                    f"The default of feature {feature.name} is wrong. {error}"
                ) from error
    return tuple(features)


def _feature(given: Any, catalogue: Mapping[str, int] | None, items: int) -> Feature:
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ArtifactRejected("Each feature of a schema must be an object with a name.")
    name = given["name"]
    if not name.strip():
        raise ArtifactRejected("A feature's name must be a word.")

    def check(right: bool, what: str) -> None:
        if not right:
            raise ArtifactRejected(f"Feature {name}: {what}.")

    def whole(key: str, least: int, default: int) -> int:
        value = given.get(key, default)
        check(type(value) is int and value >= least, f"{key} must be a whole number from {least}")
        return int(value)

    _check_keys(given, _KEYS, f"Feature {name}")
    kind = given.get("type", "float")
    check(kind in DATATYPES, f"type must be one of {', '.join(DATATYPES)}, not {kind!r}")
    datatype = given.get("datatype", "")
    known = isinstance(datatype, str) and datatype in {"", *DTYPES} and datatype != "BYTES"
    check(known, f"{datatype!r} is no datatype of numbers, such as FP32 or INT64")
    check(
        kind != "float" or not datatype or datatype.startswith("FP"),
        f"a float does not fit {datatype}",
    )
    check(isinstance(given.get("input", name), str), "input must be a name")
    check(type(given.get("flat", False)) is bool, "flat must be true or false")
    for key in ("minimum", "maximum"):
        if key in given:
            check(kind in {"float", "int"}, f"{key} is for float and int")
            check(type(given[key]) in {int, float}, f"{key} must be a number")
    vocabulary, size = None, 0
    if kind == "string":
        check(
            ("buckets" in given) != ("vocabulary" in given),
            "a string needs either buckets (to be hashed) or a vocabulary (to be looked up)",
        )
        if "vocabulary" in given:
            vocabulary, size = _vocabulary(given["vocabulary"], name, catalogue, items)
    else:
        for key in ("buckets", "vocabulary", "unknown", "offset"):
            check(key not in given, f"{key} is for strings")
    unknown = whole("unknown", 0, 0) if "unknown" in given else None
    check(unknown is None or "vocabulary" in given, "unknown is for a vocabulary")
    sequence = _padding(given["sequence"], name) if "sequence" in given else None
    check(not (sequence and given.get("flat")), "a sequence cannot be flat")
    return Feature(
        name=name,
        kind=kind,
        input=given.get("input", name),
        datatype=datatype,
        flat=given.get("flat", False),
        default=given.get("default", _MISSING),
        minimum=given.get("minimum"),
        maximum=given.get("maximum"),
        buckets=whole("buckets", 1, 1) if "buckets" in given else 0,
        vocabulary=vocabulary,
        size=size,
        unknown=unknown,
        offset=whole("offset", 0, 0),
        sequence=sequence,
    )


def _vocabulary(
    given: Any, name: str, catalogue: Mapping[str, int] | None, items: int
) -> tuple[Mapping[str, int], int]:
    if given == "catalogue":
        return catalogue or {}, items
    if not isinstance(given, list | tuple) or not given or not all(type(s) is str for s in given):
        raise ArtifactRejected(
            f'Feature {name}: vocabulary must be a list of strings, or "catalogue".'
        )
    positions = {text: i for i, text in enumerate(given)}
    if len(positions) != len(given):
        raise ArtifactRejected(f"Feature {name}: its vocabulary names a string twice.")
    return positions, len(given)


def _padding(given: Any, name: str) -> Padding:
    if not isinstance(given, Mapping):
        raise ArtifactRejected(f'Feature {name}: sequence must be like {{"max_length": 50}}.')
    _check_keys(given, _SEQUENCE_KEYS, f"The sequence of feature {name}")
    padding = Padding(**{"max_length": 0, **given})
    for right, what in (
        (
            type(padding.max_length) is int and 1 <= padding.max_length <= 100_000,
            "needs a max_length from 1 to 100000",
        ),
        (
            type(padding.min_length) is int and 1 <= padding.min_length <= padding.max_length,
            "has a min_length that is not from 1 to max_length",
        ),
        (padding.keep in {"first", "last"}, "must keep first or last"),
        (padding.pad_to in {"longest", "max_length"}, "must pad_to longest or max_length"),
        (type(padding.padding) in {int, float}, "needs a number for padding"),
        (
            isinstance(padding.mask, str) and isinstance(padding.length, str),
            "must name the inputs mask and length",
        ),
    ):
        if not right:
            raise ArtifactRejected(f"The sequence of feature {name} {what}.")
    return padding


def _check_keys(given: Mapping[str, Any], known: set[str], whose: str) -> None:
    unknown = sorted(str(key) for key in given.keys() - known)
    if unknown:
        raise ArtifactRejected(
            f"{whose} has the unknown key {unknown[0]!r}; there are {', '.join(sorted(known))}."
        )
