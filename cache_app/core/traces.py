"""Key traces: who was asked for, in order, read from files."""

from __future__ import annotations

import csv
import io
import lzma
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trace", "read_trace"]

_KINDS = (".npz", ".npy", ".csv", ".txt")


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order: an id each, and what its value weighs if that is known."""

    ids: NDArray[np.int64]
    """One number per request; equal numbers are equal keys."""
    sizes: NDArray[np.int64] | None = None
    """The weight of each request's value, at least 1."""

    def __len__(self) -> int:
        return len(self.ids)


def read_trace(path: Path) -> Trace:
    """Return the trace in a file.

    ``.npz`` has the arrays ``ids`` and, if it likes, ``sizes``; ``.npy`` is the ids alone.
    ``.csv`` has a header with ``id`` and, if it likes, ``size``; ``.txt`` has one id a line.
    Each may also be compressed, as in ``.csv.xz``. Ids may be any text there.

    Raises:
        ValueError: The file is of another kind, damaged, or empty; the message names the file,
            and the line where there is one.
        OSError: The file cannot be read.
    """
    kind = path.with_suffix("").suffix if path.suffix == ".xz" else path.suffix
    if kind not in _KINDS:
        raise ValueError(f"{path}: a trace ends in {', '.join(_KINDS)}, each also with .xz.")
    try:
        with lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb") as file:
            if kind in {".npz", ".npy"}:
                trace = _from_arrays(file, path)
            else:
                lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
                trace = _from_csv(lines, path) if kind == ".csv" else _from_lines(lines, path)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{path}: the file is damaged ({error}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the file is not UTF-8 text ({error}).") from error
    if not len(trace):
        raise ValueError(f"{path}: there is no request in it.")
    return trace


def _from_arrays(file: Any, path: Path) -> Trace:
    try:
        # A file in memory, as a compressed one cannot be read at random.
        loaded = np.load(io.BytesIO(file.read()), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return Trace(_whole(loaded, "ids", path))
        arrays = {name: loaded[name] for name in ("ids", "sizes") if name in loaded.files}
    except (ValueError, OSError, zipfile.BadZipFile, KeyError) as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: NumPy cannot read it ({error}).") from error
    if "ids" not in arrays:
        raise ValueError(f"{path}: there is no array 'ids' in it.")
    ids = _whole(arrays["ids"], "ids", path)
    if "sizes" not in arrays:
        return Trace(ids)
    sizes = _whole(arrays["sizes"], "sizes", path)
    if len(sizes) != len(ids):
        raise ValueError(f"{path}: there are {len(ids)} ids, but {len(sizes)} sizes.")
    if len(sizes) and sizes.min() < 1:
        place = int(np.argmin(sizes))
        raise ValueError(f"{path}: size {place} is {sizes[place]}; the least is 1.")
    return Trace(ids, sizes)


def _whole(array: NDArray[Any], name: str, path: Path) -> NDArray[np.int64]:
    """Return the array as int64, if it is a list of whole numbers."""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: '{name}' must be a list of whole numbers, "
            f"not {array.dtype} of shape {array.shape}."
        )
    return array.astype(np.int64)  # ids above 2**63 wrap around, and still differ


def _from_lines(lines: IO[str], path: Path) -> Trace:
    seen: dict[str, int] = {}
    ids: list[int] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        _no_nul(text, number, path)
        ids.append(seen.setdefault(text, len(seen)))
    return Trace(np.array(ids, np.int64))


def _from_csv(lines: IO[str], path: Path) -> Trace:
    reader = csv.reader(_without_nul(lines, path))
    header = [name.strip().lower() for name in next(reader, [])]
    if "id" not in header:
        raise ValueError(f"{path}, line 1: the header has no column 'id'.")
    of_id = header.index("id")
    of_size = header.index("size") if "size" in header else None
    seen: dict[str, int] = {}
    ids: list[int] = []
    sizes: list[int] = []
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(f"there are {len(row)} fields, not {len(header)}")
            ids.append(seen.setdefault(row[of_id].strip(), len(seen)))
            if of_size is not None:
                sizes.append(_size(row[of_size]))
    except (ValueError, csv.Error) as error:
        if str(error).startswith(f"{path}, "):
            raise
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
    return Trace(np.array(ids, np.int64), None if of_size is None else np.array(sizes, np.int64))


def _size(text: str) -> int:
    try:
        size = int(text)
    except ValueError:
        raise ValueError(f"the size {text[:40]!r} is not a whole number") from None
    if not 1 <= size < 2**63:
        raise ValueError(f"the size is {size}; the least is 1, and it must fit 63 bits")
    return size


def _without_nul(lines: IO[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        _no_nul(line, number, path)
        yield line


def _no_nul(line: str, number: int, path: Path) -> None:
    """Refuse what only binary files have."""
    if "\0" in line:
        raise ValueError(f"{path}, line {number}: a NUL character; this is not a text file.")
