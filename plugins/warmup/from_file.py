"""Who is in a file that an operator gives."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from plugins.contracts import UserId
from plugins.errors import InvalidOptions
from plugins.warmup.listed import Listed, best_of, read_request
from plugins.warmup_contracts import ActivityView, WarmupCandidate

__all__ = ["FromFile"]

_COLUMNS = ("user_id", "context", "k", "score")
_LONGEST = 100_000
"""Characters of a line at most."""


class FromFile:
    """Warms the users, or the complete requests, of a file in the model store.

    One request a line: JSON lines (``.jsonl``), or CSV with a header (``.csv``). The fields are
    user_id, and if need be context (in CSV as JSON), features (JSON lines only), k, and score: how
    often a day it is expected. Without scores the order of the file counts. The file is read at
    each run.

    Args:
        path: The file, in the model store.
        numeric_users: Whether users that are written as whole numbers in CSV are numbers; 1 and
            "1" are two users.
    """

    def __init__(self, *, path: str, numeric_users: bool = False) -> None:
        self._path = Path(path)
        self._numeric = numeric_users
        if self._path.suffix not in {".jsonl", ".csv"}:
            raise InvalidOptions(f"The file {self._path.name} must end in .jsonl or .csv.")
        if next(iter(self._lines()), None) is None:  # what is wrong at once is said at once
            raise InvalidOptions(f"The file {self._path.name} is empty: there is nobody to warm.")

    def candidates(self, activity: ActivityView, limit: int) -> Iterator[WarmupCandidate]:
        """Yield what is in the file, by score, and as it stands there.

        Raises:
            InvalidOptions: The file is gone, or a line is wrong; nothing has been yielded then.
        """
        yield from best_of(self._lines(), activity, limit, f"in {self._path.name}")

    def _lines(self) -> Iterator[Listed]:
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                read = _csv_lines if self._path.suffix == ".csv" else _json_lines
                for number, given in read(file, self._path.name):
                    if self._numeric and self._path.suffix == ".csv":
                        given["user_id"] = _number_if_it_is_one(given["user_id"])
                    yield read_request(given, f"{self._path.name}, line {number}")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidOptions(f"{self._path.name} cannot be read: {error}") from error


def _bounded(file: TextIO, name: str) -> Iterator[str]:
    """Yield the lines of a file, none of which may fill the memory."""
    for number in count(1):
        line = file.readline(_LONGEST + 1)
        if not line:
            return
        if len(line) > _LONGEST:
            raise InvalidOptions(f"{name}, line {number}: it is longer than {_LONGEST} characters.")
        yield line


def _json_lines(file: TextIO, name: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_bounded(file, name), 1):
        if line.strip():
            yield number, _json(line, f"{name}, line {number}")


def _csv_lines(file: TextIO, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.reader(_bounded(file, name), strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        unknown = [column for column in header if column not in _COLUMNS]
        if unknown or "user_id" not in header or len(set(header)) < len(header):
            wrong = f"not {unknown[0]!r}" if unknown else f"each once, not {', '.join(header)!r}"
            raise InvalidOptions(
                f"{name}, line 1: the columns may be {', '.join(_COLUMNS)}, user_id must be among "
                f"them, {wrong}."
            )
        for row in rows:
            where = f"{name}, line {rows.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise InvalidOptions(f"{where}: {len(row)} values for {len(header)} columns.")
            given: dict[str, Any] = dict(zip(header, row, strict=True))
            for column in ("context", "k", "score"):
                if given.get(column, "") == "":
                    given.pop(column, None)
                else:
                    given[column] = _json(given[column], f"{where}, column {column}")
            yield rows.line_num, given
    except csv.Error as error:
        raise InvalidOptions(f"{name}, line {rows.line_num}: {error}.") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidOptions(f"{where}: it is no JSON: {error}") from error


def _number_if_it_is_one(user: str) -> UserId:
    try:
        return int(user) if str(int(user)) == user else user
    except ValueError:
        return user
