"""The conformance suite: good policies pass, broken ones are told what they broke."""

import sys

import pytest

from plugins.conformance import check_eviction_policy
from plugins.eviction.builtin import recserve_eviction_policies
from plugins.eviction.fifo import FIFO
from plugins.eviction.linked import LINKS
from plugins.eviction.sieve import SIEVE
from tests.plugins.eviction.ghost_fifo import GhostFIFO

pytestmark = pytest.mark.contract("C3")


class Counting(SIEVE):
    hit_mode = "count"


class Calling(FIFO):
    """LRU as one writes it first: it hears of each hit."""

    hit_mode = "call"

    def on_hit(self, entry, now):
        self._stored.move_to_front(entry)


class Buffered(Calling):
    hit_mode = "buffer"

    def on_hits(self, entries, now):
        for entry in entries:
            if entry.prev is not None:  # it may have left
                self.on_hit(entry, now)


@pytest.mark.parametrize(
    "policy", [*recserve_eviction_policies().values(), GhostFIFO, Counting, Calling, Buffered]
)
def test_good_policies_pass(policy):
    check_eviction_policy(policy)


class EvictsTwice(FIFO):
    """Returns the same victim for ever."""

    first = None

    def evict(self, now):
        self.first = self.first or super().evict(now)
        return self.first


class LosesEntries(FIFO):
    def on_insert(self, entry, now, origin):
        if entry.key != "k1":
            super().on_insert(entry, now, origin)

    def on_remove(self, entry, cause):
        if entry.key != "k1":
            super().on_remove(entry, cause)


class ReturnsNothing(FIFO):
    def evict(self, now):
        super().evict(now)


class Loops(FIFO):
    def evict(self, now):
        while True:
            pass


class UnlinksTwice(FIFO):
    def on_remove(self, entry, cause):
        super().on_remove(entry, cause)
        super().on_remove(entry, cause)


class ForgetsToUnlink(FIFO):
    def on_remove(self, entry, cause):
        pass


class FailsItsCheck(FIFO):
    def check(self):
        assert len(self._stored) < 2, "two are too many"


class HoardsGhosts(GhostFIFO):
    def evict(self, now):
        victim = (self.probation or self.main).root.prev
        self._unlink(victim)
        self._link(victim, self.ghosts)
        victim.keep_ghost = True
        return victim


class EvictsGhosts(HoardsGhosts):
    def evict(self, now):
        return self.ghosts.root.prev if self.ghosts else super().evict(now)


class TrustsTheBuffer(Calling):
    hit_mode = "buffer"

    def on_hits(self, entries, now):
        for entry in entries:
            self._stored.unlink(entry)
            self._stored.push(entry)


class ClaimsASlot(FIFO):
    entry_slots = ("value", *LINKS)


class NoSuchMode(FIFO):
    hit_mode = "sometimes"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (EvictsTwice, "EvictsTwice evicted 'k.*', an entry that had left already"),
        (LosesEntries, r"LosesEntries (evicted .*, which is no entry|raised .* in evict).*lost"),
        (ReturnsNothing, "ReturnsNothing evicted None, which is no entry"),
        (Loops, "Loops does not come back from evict: a loop without end"),
        (UnlinksTwice, "UnlinksTwice raised AttributeError in on_remove"),
        (ForgetsToUnlink, "ForgetsToUnlink (evicted|failed|raised|does not come back)"),
        (FailsItsCheck, "FailsItsCheck failed its own assertion in check: two are too many"),
        (HoardsGhosts, "HoardsGhosts keeps ghosts that weighed .*, more than the capacity"),
        (EvictsGhosts, "EvictsGhosts evicted 'k.*', which is a ghost and not resident"),
        (TrustsTheBuffer, "TrustsTheBuffer raised AttributeError in on_hits"),
        (ClaimsASlot, "ClaimsASlot declares entry_slots that L1 owns: .*value"),
        (NoSuchMode, "NoSuchMode declares hit_mode 'sometimes'"),
    ],
)
def test_a_broken_policy_is_told_what_it_broke(policy, message):
    before = sys.gettrace()
    with pytest.raises(AssertionError, match=message):
        check_eviction_policy(policy)
    assert sys.gettrace() is before
