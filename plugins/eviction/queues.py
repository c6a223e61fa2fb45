"""A linked list that knows what it weighs, and whose entries know that they are in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

from plugins.contracts import PolicyHost
from plugins.eviction.linked import LINKS, LinkedList

__all__ = ["QUEUED", "Queue"]

QUEUED = ("queue", "charged", *LINKS)
"""The slots that an entry needs to be in a `Queue`."""

_GHOST = float("-inf")


@final
class Queue:
    """A list of entries that have the slots `QUEUED`; each is in one queue at a time.

    ``entry.queue`` is the queue, or None when the entry is in none. ``entry.charged`` is what it
    was counted as: L1 gives a ghost that comes back its new weight before the policy hears of it.
    """

    __slots__ = ("_list", "root", "weight")

    def __init__(self) -> None:
        self._list = LinkedList()
        self.root: Any = self._list.root
        """The sentinel: its ``next`` is the front, its ``prev`` the back; itself when empty."""
        self.weight = 0
        """What the entries weigh together."""

    def __len__(self) -> int:
        return len(self._list)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._list)

    def push(self, entry: Any) -> None:
        """Link an entry in at the front."""
        self.insert_after(self.root, entry)

    def insert_after(self, place: Any, entry: Any) -> None:
        """Link an entry in behind another one (or behind the root: at the front)."""
        self._list.insert_after(place, entry)
        entry.queue = self
        entry.charged = entry.weight
        self.weight += entry.weight

    def unlink(self, entry: Any) -> None:
        """Take an entry out."""
        self._list.unlink(entry)
        entry.queue = None
        self.weight -= entry.charged

    def move_to_front(self, entry: Any) -> None:
        """Move an entry of this queue to its front."""
        self._list.move_to_front(entry)

    def remember(self, victim: Any, host: PolicyHost, limit: int) -> None:
        """Keep a victim as a ghost in this queue, and forget the oldest ones beyond a weight.

        The victim is in no queue any more, and is not kept if it is heavier than the limit.
        """
        while self._list and self.weight + victim.weight > limit:
            self.forget_oldest(host)
        if victim.weight <= limit:
            self.push(victim)
            victim.keep_ghost = True

    def forget_oldest(self, host: PolicyHost) -> None:
        """Drop the ghost at the back."""
        oldest = self.root.prev
        self.unlink(oldest)
        host.drop_ghost(oldest)

    def check(self, *, ghosts: bool = False) -> None:
        """Verify the links, the weight, and that all are residents, or all ghosts.

        Raises:
            AssertionError: Something of it is wrong.
        """
        self._list.check()
        assert all(entry.queue is self for entry in self._list), "an entry is in two queues"
        assert all(entry.charged == entry.weight for entry in self._list), "a weight changed"
        assert self.weight == sum(entry.weight for entry in self._list), "the weight is wrong"
        assert all((entry.expires == _GHOST) == ghosts for entry in self._list), (
            "a resident is among the ghosts" if ghosts else "a ghost is among the residents"
        )
