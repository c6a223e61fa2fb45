"""A policy of the tests' own, as none of the built-in ones keeps ghosts yet."""

from __future__ import annotations

from typing import ClassVar

from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.linked import LINKS, LinkedList


class GhostFIFO(BaseEvictionPolicy):
    """2Q in small: what comes back while it is a ghost enters a main queue, evicted last."""

    hit_mode: ClassVar = "none"
    entry_slots: ClassVar = ("queue", *LINKS)

    def __init__(self) -> None:
        self.probation, self.main, self.ghosts = LinkedList(), LinkedList(), LinkedList()
        self.returned = 0

    def _link(self, entry, queue):
        queue.push(entry)
        entry.queue = queue

    def _unlink(self, entry):
        entry.queue.unlink(entry)
        entry.queue = None

    def on_insert(self, entry, now, origin):
        if entry.was_ghost:
            self.returned += 1
            self._unlink(entry)
        self._link(entry, self.main if entry.was_ghost else self.probation)

    def evict(self, now):
        queue = self.probation or self.main
        victim = queue.root.prev
        self._unlink(victim)
        if queue is self.probation:
            room = self.host.capacity - victim.weight
            while sum(ghost.weight for ghost in self.ghosts) > room:
                oldest = self.ghosts.root.prev
                self._unlink(oldest)
                self.host.drop_ghost(oldest)
            self._link(victim, self.ghosts)
            victim.keep_ghost = True
        return victim

    def on_remove(self, entry, cause):
        self._unlink(entry)

    def check(self):
        for queue in (self.probation, self.main, self.ghosts):
            queue.check()
        assert all(ghost.expires == float("-inf") for ghost in self.ghosts)
