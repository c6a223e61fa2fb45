"""The Open Inference Protocol's answers: tensors as JSON and binary, and the classes of a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from plugins import InferenceError, InvalidInput
from serving_app.core.open_inference import DATATYPES, OutputWish
from serving_app.core.top_k import top_k

__all__ = ["InferResponse", "datatype_of"]

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer to one inference request."""

    model_name: str
    model_version: str
    outputs: Mapping[str, NDArray[Any]]
    """By name; BYTES are object arrays of ``bytes`` or ``str``."""
    id: str = ""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For classification, the labels of an output's indices, by its name."""

    def encoded(self, wishes: Sequence[OutputWish]) -> tuple[bytes, int | None]:
        """Return the body, and the length of its JSON part if binary tensors follow it.

        Raises:
            InvalidInput: JSON cannot carry what is wanted: NaN or infinite values, or strings that
                are no UTF-8; or classes are wanted of what has none.
            InferenceError: The protocol has no datatype for what the model returned.
        """
        described: list[dict[str, Any]] = []
        tail: list[bytes] = []
        for wish in wishes:
            array = self.outputs[wish.name]
            if wish.classes:
                array = _classified(array, wish.classes, self.labels.get(wish.name, ()))
            entry: dict[str, Any] = {
                "name": wish.name,
                "datatype": datatype_of(array),
                "shape": list(array.shape),
            }
            if wish.binary:
                raw = _binary(array)
                entry["parameters"] = {"binary_data_size": len(raw)}
                tail.append(raw)
            else:
                entry["data"] = _json_data(wish.name, array)
            described.append(entry)
        answer: dict[str, Any] = {
            "model_name": self.model_name,
            "model_version": self.model_version,
            "outputs": described,
        }
        if self.id:
            answer["id"] = self.id
        head = msgspec.json.encode(answer)
        if not any(wish.binary for wish in wishes):
            return head, None
        return head + b"".join(tail), len(head)


def datatype_of(array: NDArray[Any]) -> str:
    """Return the protocol's name of an array's type.

    Raises:
        InferenceError: It has none, such as complex numbers.
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise InferenceError(f"The protocol has no datatype for the model's {array.dtype}.")
    return name


def _binary(array: NDArray[Any]) -> bytes:
    if array.dtype.kind in "OSU":
        parts: list[bytes] = []
        for value in array.ravel().tolist():
            raw = value if isinstance(value, bytes) else str(value).encode()
            parts += (len(raw).to_bytes(4, "little"), raw)
        return b"".join(parts)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _json_data(name: str, array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(
            f"output '{name}' has values that are NaN or infinite, which JSON cannot carry; ask "
            "for binary data",
            field=name,
        )
    if array.dtype.kind in "OSU":
        try:
            return [
                value.decode() if isinstance(value, bytes) else str(value)
                for value in array.ravel().tolist()
            ]
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"output '{name}' has strings that are no UTF-8, which JSON cannot carry; ask for "
                "binary data",
                field=name,
            ) from error
    values: list[Any] = array.ravel().tolist()
    return values


def _classified(array: NDArray[Any], classes: int, labels: Sequence[str]) -> NDArray[Any]:
    """Return the best classes of each row as ``value:index[:label]``, best first.

    Of equal values the lower index comes first. The first dimension is the batch, as every model
    here has one; a row is what is left, flattened.
    """
    if array.dtype.kind not in "fiu" or not array.ndim:
        raise InvalidInput("classification needs an output of numbers", field="outputs")
    rows = array.reshape(len(array), math.prod(array.shape[1:]))
    places = min(classes, rows.shape[1])
    texts = np.empty((len(rows), places), dtype=object)
    if not texts.size:
        return texts
    whole = array.dtype.kind != "f"
    # Whole numbers beyond 2**53 share a float with their neighbours, as equal ones do.
    values = rows.astype(np.float64) if whole or rows.dtype == np.float16 else rows
    if not np.isfinite(values).all():
        values = np.nan_to_num(values, nan=-np.inf)
        best = np.argsort(-values, axis=1, kind="stable")[:, :places]
    else:
        best, _ = top_k(values, places)
    for i, positions in enumerate(best):
        for j, position in enumerate(positions.tolist()):
            value = rows[i, position]
            text = f"{value}:{position}" if whole else f"{value:f}:{position}"
            if position < len(labels):
                text += f":{labels[position]}"
            texts[i, j] = text.encode()
    return texts
