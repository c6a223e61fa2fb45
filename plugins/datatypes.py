"""Datatypes of tensors, as the Open Inference Protocol names them, and as NumPy does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["DTYPES", "datatype_of"]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""NumPy's datatype by the protocol's name; the elements of ``BYTES`` are ``bytes``."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(dtype: np.dtype[Any] | str) -> str:
    """Return the protocol's name of a NumPy datatype, such as ``FP32`` for ``float32``.

    ``string``, as frameworks call it, and NumPy's own kinds of text are ``BYTES``. What the
    protocol has no name for, such as ``bfloat16``, is its own name in capitals.
    """
    if dtype == "string":
        return "BYTES"
    try:
        known = np.dtype(dtype)
    except TypeError:
        return str(dtype).upper()
    if known.kind in "SUOT":
        return "BYTES"
    return _NAMES.get(known.newbyteorder("="), known.name.upper())
