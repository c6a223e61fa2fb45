"""Leases, swaps and drains, in any order."""

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plugins import ModelNotFound, ModelNotReady
from serving_app.core.live_models import LiveModels

NAMES = ("a", "b")


class Machine(RuleBasedStateMachine):
    """A model of LiveModels: who is live, who holds what, what has been retired."""

    def __init__(self):
        super().__init__()
        self.models = LiveModels(lambda name: name in NAMES)
        self.current = {}
        self.held = []
        self.retired = {}

    @rule(name=st.sampled_from(NAMES), leaves=st.booleans())
    def swap(self, name, leaves):
        successor = None if leaves else object()
        drained = self.models.swap(name, successor)
        old = self.current.pop(name, None)
        assert (drained is None) == (old is None)
        if drained is not None:
            self.retired[old] = drained
        if successor is not None:
            self.current[name] = successor

    @rule(name=st.sampled_from(NAMES))
    def lease(self, name):
        if name in self.current:
            lease = self.models.lease(name)
            assert lease.version is self.current[name]
            self.held.append(lease)
        else:
            with pytest.raises(ModelNotReady):
                self.models.lease(name)

    @rule(data=st.data())
    def release(self, data):
        if self.held:
            at = data.draw(st.integers(0, len(self.held) - 1))
            self.held.pop(at).release()

    @rule(data=st.data())
    def share(self, data):
        if self.held:
            lease = data.draw(st.sampled_from(self.held))
            self.held.append(lease.share())
            assert self.held[-1].version is lease.version

    @rule()
    def an_unknown_name_is_not_found(self):
        with pytest.raises(ModelNotFound):
            self.models.lease("c")

    @invariant()
    def a_retired_version_is_drained_exactly_when_nobody_holds_it(self):
        holding = {id(lease.version) for lease in self.held}
        for version, drained in self.retired.items():
            assert drained.is_set() == (id(version) not in holding)

    @invariant()
    def live_is_what_was_swapped_in(self):
        assert self.models.live() == self.current


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = pytest.mark.contract("S9")(Machine.TestCase)


@pytest.mark.contract("S9")
def test_many_threads_never_hold_a_version_that_has_drained():
    models = LiveModels(lambda name: True)
    models.swap("m", object())
    drained_versions = set()
    broken = []
    stopping = threading.Event()

    def client():
        while not stopping.is_set():
            lease = models.lease("m")
            if id(lease.version) in drained_versions:
                broken.append(lease)
            lease.release()

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    kept = []  # keeps the ids of retired versions from being used again
    for _ in range(300):
        old = models.live()["m"]
        kept.append(old)
        assert models.swap("m", object()).wait(10)
        drained_versions.add(id(old))
    stopping.set()
    for thread in clients:
        thread.join(10)
    assert broken == []
