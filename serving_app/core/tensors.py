"""Callers' tensors: checked, joined into batches, and what comes back parted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plugins import InferenceError, InvalidInput, Signature, Tensors
from plugins.datatypes import datatype_of

__all__ = ["checked_tensors", "join", "part"]


def checked_tensors(
    inputs: Tensors, signature: Signature | None, *, least_rows: int = 1
) -> Tensors:
    """Return tensors in the order of a signature, if they are what it declares.

    Args:
        inputs: Arrays by name.
        signature: What is declared.
        least_rows: How many rows there must be.

    Raises:
        InvalidInput: They are not.
    """
    assert signature is not None, "a registered version has a signature"
    declared = {spec.name: spec for spec in signature.inputs}
    for name in [*(declared.keys() - inputs.keys()), *(inputs.keys() - declared.keys())]:
        what = "is missing" if name in declared else "is unknown"
        raise InvalidInput(
            f"The input {name} {what}; the model takes {', '.join(declared)}.",
            field=f"inputs.{name}",
        )
    rows = {array.shape[0] if array.ndim else -1 for array in inputs.values()}
    if len(rows) != 1 or min(rows) < least_rows:
        raise InvalidInput(
            "The inputs must have the same number of rows, at least one.", field="inputs"
        )
    for name, spec in declared.items():
        array = inputs[name]
        if datatype_of(array.dtype) != spec.datatype:
            raise InvalidInput(
                f"The input {name} must be {spec.datatype}, not {datatype_of(array.dtype)}.",
                field=f"inputs.{name}",
            )
        fits = array.ndim == len(spec.shape) and all(
            n in {-1, size} for n, size in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            raise InvalidInput(
                f"The input {name} must have the shape {list(spec.shape)}, not "
                f"{list(array.shape)}.",
                field=f"inputs.{name}",
            )
    return {name: inputs[name] for name in declared}


def join(works: Sequence[Tensors]) -> list[tuple[list[int], Tensors]]:
    """Return batches of what fits together, each with the indices of the works in it.

    Works fit if their tensors have the same names and datatypes, and the same shapes but for the
    rows. Within a batch they keep their order.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, work in enumerate(works):
        kind = tuple((n, a.dtype.str, a.shape[1:]) for n, a in sorted(work.items()))
        groups.setdefault(kind, []).append(i)
    return [
        (
            indices,
            works[indices[0]]
            if len(indices) == 1
            else {
                name: np.concatenate([works[i][name] for i in indices])
                for name in works[indices[0]]
            },
        )
        for indices in groups.values()
    ]


def part(outputs: Tensors, counts: Sequence[int]) -> list[Tensors]:
    """Return each work's rows of a batch's outputs.

    Args:
        outputs: What the model returned for all.
        counts: How many rows each work had.

    Raises:
        InferenceError: An output has not one row for each that went in.
    """
    total = sum(counts)
    for name, array in outputs.items():
        if not array.ndim or len(array) != total:
            raise InferenceError(f"The model returned {name} of {array.shape} for {total} rows.")
    if len(counts) == 1:
        return [outputs]
    ends = np.cumsum(counts)
    return [
        {name: array[end - count : end] for name, array in outputs.items()}
        for count, end in zip(counts, ends, strict=True)
    ]
