"""An intrusive doubly linked list: its links are slots of what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

__all__ = ["LINKS", "LinkedList"]

LINKS = ("prev", "next")
"""The slots that an entry needs to be in a `LinkedList`."""


@final
class _Root:
    """The sentinel that closes the ring, so that no step has a special case."""

    __slots__ = LINKS

    def __init__(self) -> None:
        self.prev: Any = self
        self.next: Any = self


@final
class LinkedList:
    """A list of things that have the slots `LINKS`; each is in one list at a time.

    Every step is O(1). ``next`` leads from the front to the back.
    """

    __slots__ = ("_size", "root")

    def __init__(self) -> None:
        self.root: Any = _Root()
        """The sentinel: its ``next`` is the front, its ``prev`` the back; itself when empty."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        node = self.root.next
        while node is not self.root:
            yield node
            node = node.next

    def push(self, node: Any) -> None:
        """Link a node in at the front."""
        self.insert_after(self.root, node)

    def insert_after(self, place: Any, node: Any) -> None:
        """Link a node in behind another one (or behind the root: at the front)."""
        after = place.next
        node.prev = place
        node.next = after
        place.next = after.prev = node
        self._size += 1

    def unlink(self, node: Any) -> None:
        """Take a node out."""
        before, after = node.prev, node.next
        before.next = after
        after.prev = before
        node.prev = node.next = None  # a second unlink must fail here, not corrupt the ring
        self._size -= 1

    def move_to_front(self, node: Any) -> None:
        """Move a node of this list to its front."""
        root = self.root
        front = root.next
        if front is not node:
            before, after = node.prev, node.next
            before.next = after
            after.prev = before
            node.prev = root
            node.next = front
            root.next = front.prev = node

    def check(self) -> None:
        """Verify the ring.

        Raises:
            AssertionError: The links do not agree, or not with the size.
        """
        node, steps = self.root, 0
        while steps <= self._size:
            following = node.next
            assert following is not None, "a link leads nowhere"
            assert following.prev is node, "the links do not agree"
            node = following
            steps += 1
            if node is self.root:
                break
        assert node is self.root, "the ring is longer than its size"
        assert steps == self._size + 1, "the ring is shorter than its size"
