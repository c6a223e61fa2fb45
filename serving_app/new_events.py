"""Who has done something since a look before: users of new events, in the order of their ids."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Max

from plugins import UserId
from serving_app.activity_models import Event

__all__ = ["NewEvents", "latest_event"]

OVERLAP = 2000
"""Events that are looked at again: a transaction with lower ids may end later."""
_TOGETHER = 20_000
"""Events that are looked at together."""


def latest_event() -> int:
    """Return the highest id of an event; 0: there is none."""
    latest: int | None = Event.objects.aggregate(latest=Max("id"))["latest"]
    return latest or 0


class NewEvents:
    """Finds events once. One thread uses it; another process may find the latest once more."""

    def __init__(self) -> None:
        self._found: set[int] = set()

    def after(self, event: int) -> Iterator[tuple[int, set[UserId]]]:
        """Yield the ids up to which was looked, each with the users of new events until then.

        Args:
            event: The id up to which was looked before.
        """
        latest = latest_event()
        if latest <= event:
            return
        start = max(0, event - OVERLAP)
        while start < latest:
            end = min(latest, start + _TOGETHER)
            rows = list(
                Event.objects.filter(id__gt=start, id__lte=end)
                .order_by()
                .values_list("id", "user", "user_is_number")
            )
            yield (
                end,
                {
                    int(user) if is_number else user
                    for number, user, is_number in rows
                    if number not in self._found
                },
            )
            recent = self._found | {number for number, *_ in rows}
            self._found = {number for number in recent if number > latest - OVERLAP}
            start = end
