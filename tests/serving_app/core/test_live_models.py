"""Leases, aliases, changes and drains, in any order."""

import threading
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plugins import ModelNotFound, ModelNotReady
from serving_app.core.live_models import CANARY, PRODUCTION, LiveModels, Routes
from serving_app.core.traffic_split import place

NAMES = ("a", "b")
ALIASES = (PRODUCTION, CANARY, "champion")


class Version:
    """What LiveModels needs of a version."""

    def __init__(self, number=1):
        self.record = SimpleNamespace(version=number)


class Machine(RuleBasedStateMachine):
    """A model of LiveModels: who is live, who holds what, what has been retired."""

    def __init__(self):
        super().__init__()
        self.models = LiveModels(lambda label: label.partition("@")[0] in NAMES)
        self.versions = [Version(number) for number in range(6)]
        self.routes = {name: {} for name in NAMES}
        self.held = []
        self.retired = {}

    @rule(
        name=st.sampled_from(NAMES),
        to=st.dictionaries(st.sampled_from(ALIASES), st.integers(0, 2)),
    )
    def route(self, name, to):
        # The models have versions of their own: 0 to 2, and 3 to 5.
        aliases = {alias: self.versions[3 * NAMES.index(name) + n] for alias, n in to.items()}
        left = set(self.routes[name].values()) - set(aliases.values())
        gone = self.models.route(name, Routes(aliases) if aliases else None)
        assert {version for _, version in gone} == left
        self.routes[name] = aliases
        for drained, version in gone:
            self.retired[version] = drained
        for version in aliases.values():
            self.retired.pop(version, None)

    @rule(name=st.sampled_from(NAMES), alias=st.sampled_from(["", *ALIASES]))
    def lease(self, name, alias):
        expected = self.routes[name].get(alias or PRODUCTION)
        if expected is None:
            with pytest.raises(ModelNotReady):
                self.models.lease(name, "u", alias)
        else:
            lease = self.models.lease(name, "u", alias)
            assert (lease.version, lease.alias) == (expected, alias or PRODUCTION)
            self.held.append(lease)

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 5))
    def lease_by_number(self, name, number):
        if self.versions[number] in self.routes[name].values():
            lease = self.models.lease(name, "u", str(number))
            assert (lease.version, lease.alias) == (self.versions[number], "")
            self.held.append(lease)
        else:
            with pytest.raises(ModelNotReady):
                self.models.lease(name, "u", str(number))

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
    def live_is_what_was_routed_to(self):
        live = {name: dict(routes.aliases) for name, routes in self.models.routes().items()}
        assert live == {name: aliases for name, aliases in self.routes.items() if aliases}


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = pytest.mark.contract("S9")(Machine.TestCase)


@pytest.mark.contract("S1")
def test_the_canary_answers_its_share_of_the_users_and_no_one_who_asks_for_production():
    models = LiveModels(lambda label: True)
    one, two = Version(1), Version(2)
    users = [f"u{n}" for n in range(2000)]
    before = set()
    for share in (100, 1000, 2500, 10_000):
        models.route("m", Routes({PRODUCTION: one, CANARY: two}, canary_share=share))
        leases = {user: models.lease("m", user) for user in users}
        chosen = {user for user, lease in leases.items() if lease.version is two}
        assert chosen == {user for user in users if place("m", 2, user) < share}
        assert {leases[user].alias for user in chosen} == {CANARY}
        assert before <= chosen, "nobody goes back"
        before = chosen
        assert models.lease("m", next(iter(chosen)), PRODUCTION).version is one
    assert len(before) == 2000
    models.route("m", Routes({PRODUCTION: one}, canary_share=2500))  # not loaded here yet
    assert all(models.lease("m", user).version is one for user in users)


def test_what_is_missing_is_named():
    models = LiveModels(lambda label: label in {"m", "m@2", "m@sleeping"})
    models.swap("m", Version(1))
    for alias in ("2", "sleeping"):
        with pytest.raises(ModelNotReady, match=f"'m@{alias}' has no live version"):
            models.lease("m", "u", alias)
    with pytest.raises(ModelNotFound, match="'m' has no alias 'champion'"):
        models.lease("m", "u", "champion")
    with pytest.raises(ModelNotFound, match="'m' has no version '3'"):
        models.lease("m", "u", "3")
    with pytest.raises(ModelNotFound, match="No model is called 'n'"):
        models.lease("n", "u", "champion")


@pytest.mark.contract("S9")
def test_many_threads_never_hold_a_version_that_has_drained():
    models = LiveModels(lambda name: True)
    models.swap("m", Version())
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
        assert models.swap("m", Version()).wait(10)
        drained_versions.add(id(old))
    stopping.set()
    for thread in clients:
        thread.join(10)
    assert broken == []
