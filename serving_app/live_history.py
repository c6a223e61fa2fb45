"""The last fifteen minutes, as all processes told them: each process keeps what it saw of that.

A look reads what every process told to the database. Every process looks now and then, so that who
opens the dashboard sees at once what has been; while somebody watches, it looks as often as
processes tell, once for all who watch here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from serving_app.core.live_points import Point, Told, difference
from serving_app.core.statistics import Statistics
from serving_app.models import ProcessStatistics

__all__ = ["HISTORY_SECONDS", "WATCHED_SECONDS", "LiveHistory", "told"]

HISTORY_SECONDS = 900.0
"""How far back it goes."""
WATCHED_SECONDS = 1.9
"""Between two looks while somebody watches; a little less than processes take to tell."""
UNWATCHED_SECONDS = 9.9
"""Between two looks otherwise."""

logger = logging.getLogger(__name__)


def told() -> dict[str, Told]:
    """Return what each process told last, by its name."""
    found = {}
    for row in ProcessStatistics.objects.all():
        try:
            statistics = Statistics.from_json(row.serving)
        except ValueError as error:  # a process of another release, during an update
            logger.warning("The statistics of %s cannot be read: %s", row.process, error)
            continue
        # What is told of parts of a level stands beside the levels.
        levels = {name: each for name, each in row.cache.items() if "away" in each}
        found[row.process] = Told(row.seen.timestamp(), statistics, levels)
    return found


class LiveHistory:
    """Points of the last minutes. Any thread looks, and reads.

    Args:
        read: Returns what each process told last.
        clock: Unix seconds.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, Told]] = told,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._read = read
        self._clock = clock
        self._looking = threading.Lock()
        self._points: tuple[Point, ...] = ()
        self._last: Mapping[str, Told] = {}
        self.looked = float("-inf")
        """When it last looked."""

    def due(self, *, watched: bool = True) -> bool:
        """Return whether it is time for the next look. It waits for nothing."""
        pause = WATCHED_SECONDS if watched else UNWATCHED_SECONDS
        return not 0 <= self._clock() - self.looked < pause

    def look(self, *, watched: bool = True) -> None:
        """Read what was told since, if it is time for that.

        Raises:
            DatabaseError: It cannot be read; the next call tries again.
        """
        with self._looking:
            if not self.due(watched=watched):
                return
            now = self._clock()
            last = self._read()
            self.looked = now
            point = difference(self._last, last, now=now)
            if point is not None or not last.keys() & self._last.keys():
                self._last = last
            kept = [each for each in self._points if each.at > now - HISTORY_SECONDS]
            self._points = (*kept, point) if point is not None else tuple(kept)

    @property
    def last(self) -> Mapping[str, Told]:
        """What each process had told at the last look, by its name."""
        return self._last

    def since(self, instant: float) -> Sequence[Point]:
        """Return the points that ended after an instant, the oldest first. It waits for nothing."""
        return tuple(point for point in self._points if point.at > instant)
