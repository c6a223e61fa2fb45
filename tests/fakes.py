"""Fakes: small, honest implementations that tests steer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from cache_app.core.levels import LevelStats, Stored
from plugins.contracts import InsertOrigin
from plugins.errors import LevelUnavailable


class FakeClock:
    """A clock that stands still until a test advances it."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeLevel:
    """An unbounded level that, like a remote one, does not look at expiry by itself."""

    def __init__(self, name: str = "l2") -> None:
        self.name = name
        self.table: dict[str, Stored] = {}
        self.origins: dict[str, InsertOrigin] = {}

    def get(self, key: str, /) -> Stored | None:
        return self.table.get(key)

    def put(self, key: str, stored: Stored, origin: InsertOrigin) -> None:
        self.table[key] = stored
        self.origins[key] = origin

    def remove(self, key: str) -> bool:
        return self.table.pop(key, None) is not None

    def remove_where(self, predicate: Callable[[str], bool]) -> int:
        return sum(self.remove(key) for key in list(self.table) if predicate(key))

    def clear(self) -> int:
        return self.remove_where(lambda _: True)

    def stats(self) -> LevelStats:
        return LevelStats(entries=len(self.table))


class FailingLevel:
    """A level that never answers."""

    def __init__(self, name: str = "l2") -> None:
        self.name = name

    def _fail(self, *_: object) -> NoReturn:
        raise LevelUnavailable(f"{self.name} is down")

    get = put = remove = remove_where = clear = stats = _fail
