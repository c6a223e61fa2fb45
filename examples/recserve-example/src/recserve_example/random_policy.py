"""Evicts any entry, each with the same probability."""

from plugins.eviction.base import BaseEvictionPolicy


class RandomPolicy(BaseEvictionPolicy):
    """Random replacement: evicts any entry, each with the same probability.

    It hears of no hit, and so costs nothing on one. The residents stand in an array, and each
    knows its index there; the last one moves into a hole, so every step is O(1).
    """

    hit_mode = "none"
    entry_slots = ("index",)

    def attach(self, host):
        super().attach(host)
        self._residents = []

    def on_insert(self, entry, now, origin):
        entry.index = len(self._residents)
        self._residents.append(entry)

    def evict(self, now):
        victim = self._residents[self.host.rng.randrange(len(self._residents))]
        self._unlink(victim)
        return victim

    def on_remove(self, entry, cause):
        self._unlink(entry)

    def check(self):
        for index, entry in enumerate(self._residents):
            assert entry.index == index, f"{entry.key} stands at {index}, not at {entry.index}"

    def _unlink(self, entry):
        last = self._residents.pop()
        if last is not entry:
            self._residents[entry.index] = last
            last.index = entry.index
