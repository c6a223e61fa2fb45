"""The Open Inference Protocol's inference requests, in JSON and binary.

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

from plugins import InvalidInput, TensorSpec

__all__ = ["DATATYPES", "InferRequest", "OutputWish", "read_raw_request", "read_request"]

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


def read_raw_request(body: bytes, spec: TensorSpec) -> InferRequest:
    """Return the request of a body that is nothing but the data of a model's only input.

    The header ``Inference-Header-Content-Length: 0`` says so. It is one row; its only free size is
    found by the length. Outputs are binary.

    Args:
        body: The whole body, decompressed.
        spec: The input.

    Raises:
        InvalidInput: The input has several free sizes, or the body is not of its size.
    """
    sizes = list(spec.shape[1:])
    free = [i for i, size in enumerate(sizes) if size < 0]
    if len(free) > 1:
        raise InvalidInput(
            f"input '{spec.name}' has several variable sizes: a raw request cannot say them",
            field=spec.name,
        )
    given = _Input(spec.name, [1, *sizes], spec.datatype)
    raw = memoryview(body)
    if free:
        rest = math.prod(size for size in sizes if size >= 0)
        if spec.datatype == "BYTES":
            elements = _count_strings(raw)
        else:
            elements = len(body) // DATATYPES[spec.datatype].itemsize
        given.shape[1 + free[0]] = elements // max(1, rest)
    array = _from_binary(given, math.prod(given.shape), raw).reshape(given.shape)
    return InferRequest({spec.name: array}, {spec.name: spec.datatype}, binary_outputs=True)


def _count_strings(raw: memoryview) -> int:
    """Return how many strings there are, each after its length; what is cut off counts as one."""
    at = count = 0
    while at < len(raw):
        at += 4 + int.from_bytes(raw[at : at + 4], "little")
        count += 1
    return count


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
    if math.prod(size or 1 for size in given.shape) > _MAX_ELEMENTS:  # NumPy's limit ignores zeros
        raise InvalidInput(f"the shape of input '{name}' is too large", field=name)
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
