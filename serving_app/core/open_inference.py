"""The Open Inference Protocol's bodies: inference requests and answers, in JSON and binary.

Source: `inference_rest.md` of the protocol's repository and Triton's `extension_binary_data.md`,
`extension_classification.md`. Where they are silent, Triton's server is followed, as its clients
are the most used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from plugins import InvalidInput

__all__ = ["DATATYPES", "InferRequest", "InferResponse", "OutputWish", "read_request"]

DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""NumPy's type of each datatype. BF16, which NumPy lacks, travels as its upper half of FP32."""

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_MAX_RANK = 16
_MAX_ELEMENTS = 1 << 31


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] | None = None


_decoder = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class OutputWish:
    """How one output is wanted."""

    name: str
    binary: bool = False
    classes: int = 0
    """Of each row the best so many, as ``value:index[:label]``; 0: the tensor itself."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One inference request."""

    inputs: Mapping[str, NDArray[Any]]
    """By name; BYTES are object arrays of ``bytes``, BF16 is widened to float32."""
    datatypes: Mapping[str, str]
    """The datatype of each input."""
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[OutputWish, ...] | None = None
    """What is wanted, in this order; None: everything, in the model's order."""
    binary_outputs: bool = False
    """Whether outputs are binary unless a wish says otherwise."""

    def wishes(self, names: Sequence[str]) -> tuple[OutputWish, ...]:
        """Return the wanted outputs of a model that has those of the given names.

        Raises:
            InvalidInput: An output is wanted that the model does not have.
        """
        if self.outputs is None:
            return tuple(OutputWish(name, self.binary_outputs) for name in names)
        for wish in self.outputs:
            if wish.name not in names:
                raise InvalidInput(
                    f"unexpected inference output '{wish.name}'; the model has {', '.join(names)}",
                    field="outputs",
                )
        return self.outputs


def read_request(body: bytes, json_length: str | None, *, most_inputs: int = 256) -> InferRequest:
    """Return the request of a body.

    Args:
        body: The whole body, decompressed.
        json_length: The header ``Inference-Header-Content-Length``, if there is one.
        most_inputs: How many inputs a request may have.

    Raises:
        InvalidInput: The body is no such request; the message says where.
    """
    head, tail = _divided(body, json_length)
    try:
        parsed = _decoder.decode(head)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(f"failed to parse the request JSON: {error}", field="body") from error
    if not parsed.inputs:
        raise InvalidInput("the request has no inputs", field="inputs")
    if len(parsed.inputs) > most_inputs:
        raise InvalidInput(f"the request has more than {most_inputs} inputs", field="inputs")
    inputs: dict[str, NDArray[Any]] = {}
    datatypes: dict[str, str] = {}
    for given in parsed.inputs:
        if given.name in inputs:
            raise InvalidInput(f"input '{given.name}' is given twice", field=given.name)
        inputs[given.name], tail = _tensor(given, tail)
        datatypes[given.name] = given.datatype
    if tail:
        raise InvalidInput(
            f"unexpected additional input data: {len(tail)} bytes after the last input",
            field="body",
        )
    for name in parsed.parameters:
        if name.startswith("triton_"):
            raise InvalidInput(
                f"parameter '{name}' is reserved: names that begin with triton_ are",
                field="parameters",
            )
    binary = _flag(parsed.parameters, "binary_data_output", "the request")
    return InferRequest(
        inputs=inputs,
        datatypes=datatypes,
        id=parsed.id,
        parameters=parsed.parameters,
        outputs=None
        if parsed.outputs is None
        else tuple(_wish(output, binary=binary) for output in parsed.outputs),
        binary_outputs=binary,
    )


def _divided(body: bytes, json_length: str | None) -> tuple[memoryview, memoryview]:
    whole = memoryview(body)
    if json_length is None:
        return whole, whole[:0]
    if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 19):
        raise InvalidInput(
            f"Inference-Header-Content-Length must be a whole number, not {json_length[:40]!r}",
            field="Inference-Header-Content-Length",
        )
    length = int(json_length)
    if not 0 < length <= len(whole):
        raise InvalidInput(
            f"inference header size should be in range (0, {len(whole)}), got: {length}",
            field="Inference-Header-Content-Length",
        )
    return whole[:length], whole[length:]


def _wish(output: _Output, *, binary: bool) -> OutputWish:
    classes = output.parameters.get("classification", 0)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
        raise InvalidInput(
            f"classification of output '{output.name}' must be a whole number of classes",
            field=output.name,
        )
    given = _flag(output.parameters, "binary_data", f"output '{output.name}'", default=binary)
    return OutputWish(output.name, given, classes)


def _flag(parameters: Mapping[str, Any], name: str, where: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter '{name}' of {where} must be true or false", field=name)
    return value


# --- Tensors ----------------------------------------------------------------------------------


def _tensor(given: _Input, tail: memoryview) -> tuple[NDArray[Any], memoryview]:
    """Return one input, and what is left of the binary part."""
    name = given.name
    if given.datatype not in DATATYPES and given.datatype != "BF16":
        raise InvalidInput(
            f"input '{name}' has the unknown datatype {given.datatype[:20]!r}; there are "
            f"{', '.join([*DATATYPES, 'BF16'])}",
            field=name,
        )
    if len(given.shape) > _MAX_RANK or any(size < 0 for size in given.shape):
        raise InvalidInput(
            f"the shape of input '{name}' must have at most {_MAX_RANK} sizes of 0 or more",
            field=name,
        )
    count = math.prod(given.shape)
    if count > _MAX_ELEMENTS:
        raise InvalidInput(f"input '{name}' has too many elements: {count}", field=name)
    size = given.parameters.get("binary_data_size")
    if size is None:
        return _from_json(given, count), tail
    if given.data is not None:
        raise InvalidInput(f"input '{name}' has both data and binary_data_size", field=name)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise InvalidInput(
            f"binary_data_size of input '{name}' must be a whole number of bytes", field=name
        )
    if size > len(tail):
        raise InvalidInput(
            f"input '{name}' declares {size} bytes, but only {len(tail)} are left", field=name
        )
    return _from_binary(given, count, tail[:size]).reshape(given.shape), tail[size:]


def _from_binary(given: _Input, count: int, raw: memoryview) -> NDArray[Any]:
    if given.datatype == "BYTES":
        return _strings(given.name, count, raw)
    itemsize = 2 if given.datatype == "BF16" else DATATYPES[given.datatype].itemsize
    if len(raw) != count * itemsize:
        raise InvalidInput(
            f"unexpected size for input '{given.name}', expecting {count * itemsize} bytes, got "
            f"{len(raw)} bytes",
            field=given.name,
        )
    if given.datatype == "BF16":
        upper = np.frombuffer(raw, "<u2").astype(np.uint32)
        return np.left_shift(upper, 16).view(np.float32)
    if given.datatype == "BOOL":
        return np.frombuffer(raw, np.uint8) != 0  # type: ignore[no-any-return]
    return np.frombuffer(raw, DATATYPES[given.datatype])


def _strings(name: str, count: int, raw: memoryview) -> NDArray[Any]:
    values: list[bytes] = []
    at = 0
    while at < len(raw):
        start = at + 4
        end = start + int.from_bytes(raw[at:start], "little")
        if start > len(raw) or end > len(raw):
            raise InvalidInput(
                f"incomplete string data for input '{name}': element {len(values)} goes beyond "
                "the end",
                field=name,
            )
        values.append(bytes(raw[start:end]))
        at = end
    if len(values) != count:
        raise InvalidInput(
            f"expecting {count} strings for input '{name}', got {len(values)}", field=name
        )
    return _objects(values)


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _from_json(given: _Input, count: int) -> NDArray[Any]:
    name, datatype = given.name, given.datatype
    if datatype in {"FP16", "BF16"}:
        raise InvalidInput(
            f"input '{name}' is {datatype}, which JSON cannot carry; send it as binary data",
            field=name,
        )
    if not isinstance(given.data, list):
        raise InvalidInput(f"input '{name}' has no data, or data that is no array", field=name)
    flat: list[Any] = []
    _flatten(given.data, flat, name, 0)
    if len(flat) != count:
        raise InvalidInput(
            f"unexpected number of elements for input '{name}': the shape {given.shape} needs "
            f"{count}, got {len(flat)}",
            field=name,
        )
    _check_elements(name, datatype, flat)
    if datatype == "BYTES":
        return _objects([value.encode() for value in flat]).reshape(given.shape)
    try:
        with np.errstate(over="raise"):
            array = np.array(flat, dtype=DATATYPES[datatype])
    except (OverflowError, FloatingPointError) as error:
        raise InvalidInput(
            f"input '{name}' has a value outside the range of {datatype}", field=name
        ) from error
    return array.reshape(given.shape)


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "b": ((bool,), "true or false"),
    "u": ((int,), "whole numbers"),
    "i": ((int,), "whole numbers"),
    "f": ((float, int), "numbers"),
    "O": ((str,), "strings"),
}


def _check_elements(name: str, datatype: str, flat: Sequence[Any]) -> None:
    types, words = _KINDS[DATATYPES[datatype].kind]
    for value in flat:
        if type(value) not in types:
            raise InvalidInput(
                f"input '{name}' is {datatype}: its data must be {words}, not "
                f"{type(value).__name__}",
                field=name,
            )


def _flatten(values: list[Any], flat: list[Any], name: str, depth: int) -> None:
    if depth > _MAX_RANK:
        raise InvalidInput(f"the data of input '{name}' is nested too deeply", field=name)
    for value in values:
        if isinstance(value, list):
            _flatten(value, flat, name, depth + 1)
        else:
            flat.append(value)


# --- Answers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer to one inference request."""

    model_name: str
    model_version: str
    outputs: Mapping[str, NDArray[Any]]
    """By name; BYTES are object arrays of ``bytes`` or ``str``."""
    id: str = ""
    labels: Sequence[str] | None = None
    """The label of each index, for classification."""

    def encoded(self, wishes: Sequence[OutputWish]) -> tuple[bytes, int | None]:
        """Return the body, and the length of its JSON part if binary tensors follow it.

        Raises:
            InvalidInput: JSON cannot carry what is wanted: NaN or infinite values.
        """
        described: list[dict[str, Any]] = []
        tail: list[bytes] = []
        for wish in wishes:
            array = self.outputs[wish.name]
            if wish.classes:
                array = _classified(array, wish.classes, self.labels)
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
        TypeError: It has none, such as complex numbers.
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise TypeError(f"The protocol has no datatype for {array.dtype}.")
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
        return [
            value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            for value in array.ravel().tolist()
        ]
    values: list[Any] = array.ravel().tolist()
    return values


def _classified(array: NDArray[Any], classes: int, labels: Sequence[str] | None) -> NDArray[Any]:
    """Return the best classes of each row as ``value:index[:label]``, best first.

    Of equal values the lower index comes first. The first dimension is the batch, as every model
    here has one; a row is what is left, flattened.
    """
    if array.dtype.kind not in "fiu":
        raise InvalidInput("classification needs an output of numbers", field="outputs")
    rows = array.reshape(len(array), -1) if array.size else array.reshape(len(array), 0)
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :classes]
    texts = np.empty(best.shape, dtype=object)
    for i, positions in enumerate(best):
        for j, position in enumerate(positions.tolist()):
            text = f"{rows[i, position]:f}:{position}"
            if labels is not None and position < len(labels):
                text += f":{labels[position]}"
            texts[i, j] = text.encode()
    return texts
