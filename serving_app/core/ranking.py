"""From positions in a catalogue to items: exclusions, the cut at k."""

from __future__ import annotations

import csv
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from plugins import ArtifactRejected


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items a model version scores; position = column of the scores."""

    items: tuple[str, ...]
    """Item ids."""
    titles: tuple[str, ...]
    """Titles, in the same order."""
    position: dict[str, int] = field(init=False, repr=False, compare=False)
    """Position by item id."""
    ids: NDArray[np.object_] = field(init=False, repr=False, compare=False)
    """``items`` as an array, which gives those of many positions at once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", {item: i for i, item in enumerate(self.items)})
        object.__setattr__(self, "ids", np.array(self.items, dtype=object))

    def title(self, item: str) -> str:
        """Return the item's title, or its id if the catalogue no longer has it."""
        at = self.position.get(item)
        return item if at is None else self.titles[at]


NO_CATALOGUE = Catalogue((), ())
"""The catalogue of a version whose output is raw."""


def read_catalogue(path: Path) -> Catalogue:
    """Return the catalogue of a UTF-8 CSV file with the columns ``item`` and ``title``.

    Raises:
        ArtifactRejected: The file is missing, has no such columns, is empty, or names an item
            twice; the message gives the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not {"item", "title"} <= set(reader.fieldnames or ()):
                raise ArtifactRejected(
                    f"The catalogue {path.name} must start with the header item,title; "
                    f"it has {reader.fieldnames}."
                )
            rows = [(row["item"], row["title"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArtifactRejected(f"The catalogue {path.name} cannot be read: {error}.") from error
    seen: set[str] = set()
    for line, (item, title) in enumerate(rows, start=2):
        if not item or title is None:
            raise ArtifactRejected(f"The catalogue {path.name} has no item or title in row {line}.")
        if item in seen:
            raise ArtifactRejected(f"The catalogue {path.name} names {item} twice (row {line}).")
        seen.add(item)
    if not rows:
        raise ArtifactRejected(f"The catalogue {path.name} lists no items.")
    items, titles = zip(*rows, strict=True)
    return Catalogue(items, titles)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best items for one request, as deep as they were computed. This is what is cached."""

    items: tuple[str, ...]
    """Item ids, best first."""
    scores: tuple[float, ...]
    """Their scores."""
    complete: bool
    """Whether the ranking holds the whole catalogue, so that nothing lies deeper."""

    @classmethod
    def of(
        cls, catalogue: Catalogue, positions: NDArray[np.intp], scores: NDArray[np.floating]
    ) -> Self:
        """Return the ranking of some positions in a catalogue, best first."""
        return cls(
            items=tuple(catalogue.ids[positions].tolist()),
            scores=tuple(scores.tolist()),
            complete=len(positions) == len(catalogue.items),
        )

    wire_type: ClassVar[Any] = tuple[tuple[str, ...], bytes, bool]

    def to_wire(self) -> tuple[tuple[str, ...], bytes, bool]:
        """Return the form in which the cache writes it, with packed scores.

        Models score in float32, which 4 bytes hold exactly; scores of a model that does not
        (float64, or plain numbers) take 8. JSON would take about 18 for the same float32.
        """
        layout = f"<{len(self.scores)}f"
        try:
            packed = struct.pack(layout, *self.scores)
        except OverflowError:  # beyond float32
            packed = b""
        if not packed or struct.unpack(layout, packed) != self.scores:
            packed = struct.pack(f"<{len(self.scores)}d", *self.scores)
        return self.items, packed, self.complete

    @classmethod
    def from_wire(cls, wire: tuple[tuple[str, ...], bytes, bool]) -> Self:
        """Return the ranking of a form.

        Raises:
            ValueError: It has not one score for each item.
        """
        items, packed, complete = wire
        n = len(items)
        if len(packed) == 4 * n:
            return cls(items, struct.unpack(f"<{n}f", packed), complete)
        if len(packed) == 8 * n:
            return cls(items, struct.unpack(f"<{n}d", packed), complete)
        raise ValueError(f"{len(packed)} bytes of scores do not fit {n} items.")

    def cut(
        self, k: int, exclude: Collection[str]
    ) -> tuple[tuple[str, ...], tuple[float, ...]] | None:
        """Return the first ``k`` items that are not excluded, with their scores.

        None means that the ranking is too shallow to know them.
        """
        if not exclude:
            if len(self.items) < k and not self.complete:
                return None
            return self.items[:k], self.scores[:k]
        kept = [
            pair for pair in zip(self.items, self.scores, strict=True) if pair[0] not in exclude
        ]
        if len(kept) < k and not self.complete:
            return None
        return tuple(item for item, _ in kept[:k]), tuple(score for _, score in kept[:k])
