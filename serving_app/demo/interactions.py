"""A shop's interactions: who bought what, how much of it, and when, read from CSV files."""

from __future__ import annotations

import csv
import gzip
import lzma
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

_SUFFIXES = ("", ".xz", ".gz")
_MOST = 2.0**53  # beyond it, a float no longer tells neighbouring whole numbers apart
_COLUMNS = ("user", "item", "rating", "timestamp")


@dataclass(frozen=True, slots=True)
class Interactions:
    """Purchases in columns, one row per line of an invoice.

    An *invoice* is all that one user bought at one timestamp.
    """

    user_ids: tuple[str, ...]
    """Ids of the users, by user index."""
    item_ids: tuple[str, ...]
    """Ids of the items, by item index: the catalogue."""
    user_index: NDArray[np.int64]
    """``(rows,)`` positions in ``user_ids``."""
    item_index: NDArray[np.int64]
    """``(rows,)`` positions in ``item_ids``."""
    quantity: NDArray[np.float64]
    """``(rows,)`` pieces bought, above zero."""
    timestamp: NDArray[np.int64]
    """``(rows,)`` seconds since the epoch."""

    def __len__(self) -> int:
        return len(self.user_index)

    def where(self, chosen: NDArray[np.bool_]) -> Interactions:
        """Return the chosen rows; users and items keep their indices, even those without a row.

        Args:
            chosen: ``(rows,)``, True for a row to keep.
        """
        return Interactions(
            self.user_ids,
            self.item_ids,
            self.user_index[chosen],
            self.item_index[chosen],
            self.quantity[chosen],
            self.timestamp[chosen],
        )


def find_data(directory: Path) -> tuple[Path, Path]:
    """Return the interactions file and the items file of a folder, plain, ``.xz`` or ``.gz``.

    Raises:
        ValueError: The folder or one of the two files is missing; the message says which.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a folder.")
    found: list[Path] = []
    missing: list[str] = []
    for name in ("interactions.csv", "items.csv"):
        candidates = (directory / f"{name}{suffix}" for suffix in _SUFFIXES)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            missing.append(f"{name} (or {name}.xz, {name}.gz)")
        else:
            found.append(path)
    if missing:
        raise ValueError(f"{directory} has no {' and no '.join(missing)}.")
    return found[0], found[1]


def read_interactions(path: Path) -> Interactions:
    """Return the interactions of a CSV file with the columns user, item, rating, timestamp.

    ``rating`` is the quantity bought; ``timestamp`` is in seconds since the epoch. Further
    columns are ignored. Users and items are indexed in the order in which they first occur.

    Raises:
        ValueError: The file cannot be read, lacks a column, holds no rows, or a value is
            rubbish; the message names file, line and column.
    """
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user_index: list[int] = []
    item_index: list[int] = []
    quantity: list[float] = []
    timestamp: list[int] = []
    for line, (user, item, rating, instant) in rows_of(path, _COLUMNS):
        if not user:
            raise _rubbish(path, line, "user", user, "an id")
        if not item:
            raise _rubbish(path, line, "item", item, "an id")
        user_index.append(users.setdefault(user, len(users)))
        item_index.append(items.setdefault(item, len(items)))
        quantity.append(_number(path, line, "rating", rating))
        timestamp.append(int(_number(path, line, "timestamp", instant)))
    return Interactions(
        tuple(users),
        tuple(items),
        np.array(user_index, dtype=np.int64),
        np.array(item_index, dtype=np.int64),
        np.array(quantity, dtype=np.float64),
        np.array(timestamp, dtype=np.int64),
    )


def read_items(path: Path) -> dict[str, str]:
    """Return titles by item id, of a CSV file with the columns item and title.

    An item without a title is left out: `titles_of` gives it its id.

    Raises:
        ValueError: As for `read_interactions`, or an item occurs twice.
    """
    titles: dict[str, str] = {}
    seen: set[str] = set()
    for line, (item, title) in rows_of(path, ("item", "title")):
        if not item:
            raise _rubbish(path, line, "item", item, "an id")
        if item in seen:
            raise _rubbish(path, line, "item", item, "an id that has not occurred before")
        seen.add(item)
        if title:
            titles[item] = title
    return titles


def titles_of(item_ids: tuple[str, ...], titles: Mapping[str, str]) -> tuple[str, ...]:
    """Return the title of each item, or its id where none is known."""
    return tuple(titles.get(item) or item for item in item_ids)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Give the file's text, decompressed by its suffix."""
    if path.suffix == ".xz":
        file: TextIO = lzma.open(path, "rt", encoding="utf-8-sig", newline="")
    elif path.suffix == ".gz":
        file = gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    else:
        file = path.open(encoding="utf-8-sig", newline="")
    with file:
        yield file


def rows_of(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Yield each row's line number and its stripped values of the columns.

    Raises:
        ValueError: The file cannot be read, lacks a column or has no rows; a row is too short.
    """
    try:
        with _opened(path) as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise ValueError(
                    f"{path}, line 1: no column {', '.join(missing)}. "
                    f"It needs {','.join(columns)}; it has {','.join(header) or 'nothing'}."
                )
            places = [header.index(name) for name in columns]
            empty = True
            for row in reader:
                if not row:
                    continue
                if len(row) <= max(places):
                    short = columns[next(i for i, at in enumerate(places) if at >= len(row))]
                    raise ValueError(f"{path}, line {reader.line_num}: no value for {short}.")
                empty = False
                yield reader.line_num, [row[at].strip() for at in places]
            if empty:
                raise ValueError(f"{path} has a header, but no rows.")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def _number(path: Path, line: int, column: str, text: str) -> float:
    """Return a number above zero, below `_MOST`.

    Raises:
        ValueError: The text is none.
    """
    try:
        value = float(text)
    except ValueError as error:
        raise _rubbish(path, line, column, text, "a number above zero") from error
    if not 0 < value < _MOST:
        raise _rubbish(path, line, column, text, "a number above zero")
    return value


def _rubbish(path: Path, line: int, column: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{path}, line {line}, column {column}: {value!r} is not {wanted}.")
