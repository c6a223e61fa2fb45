import dataclasses

import pytest

from serving_app.core.live_models import CANARY, PRODUCTION, LiveModels, Routes
from serving_app.core.open_versions import OpenVersions
from serving_app.core.version_record import VersionRecord
from tests.fakes import FakeClock

pytestmark = pytest.mark.contract("S9")


class Version:
    def __init__(self, number, **changes):
        record = VersionRecord("m", number, "a", "0", "fake", "c", "0", ("x",))
        self.record = dataclasses.replace(record, **changes)
        self.closed = 0

    def close(self):
        self.closed += 1
        if self.record.version == 9:
            raise RuntimeError("a plugin may raise")


@pytest.fixture
def live():
    return LiveModels(lambda label: True)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def versions(live, clock):
    return OpenVersions(live, keep=60.0, clock=clock)


@pytest.fixture
def go(versions):
    """Let a version answer in production, and others beside it."""

    def go(version, **others):
        for each in (version, *others.values()):
            if versions.find(each.record) is None:
                versions.add(each)
        versions.route("m", Routes({PRODUCTION: version, **others}))
        versions.close_drained()

    return go


def test_what_left_production_is_kept_and_found_again(go, versions, clock):
    one, two = Version(1), Version(2)
    go(one)
    go(two)
    assert versions.kept() == [("m", 1)]
    assert versions.find(one.record) is one
    go(one)
    assert versions.kept() == [("m", 2)]
    clock.advance(59)
    versions.close_drained()
    assert (one.closed, two.closed) == (0, 0)
    clock.advance(2)
    versions.close_drained()
    assert (one.closed, two.closed) == (0, 1)
    assert versions.find(two.record) is None


def test_of_a_model_only_the_latest_is_kept(go, versions):
    all_of_them = [Version(n) for n in range(1, 6)]
    for version in all_of_them:
        go(version)
    assert [version.closed for version in all_of_them] == [1, 1, 1, 0, 0]


def test_a_canary_that_is_rolled_back_does_not_take_the_place_of_the_kept_one(go, versions):
    one, two, three = Version(1), Version(2), Version(3)
    go(one)
    go(two, canary=three)
    go(two)
    assert (one.closed, three.closed) == (0, 1)


def test_nothing_is_closed_while_a_request_holds_it(go, live, versions, clock):
    one = Version(1)
    go(one)
    lease = live.lease("m")
    go(Version(2))
    clock.advance(61)
    versions.close_drained()
    assert one.closed == 0
    lease.release()
    versions.close_drained()
    assert one.closed == 1


def test_new_settings_replace_a_version_by_another_of_its_number(go, versions):
    one, changed = Version(1), Version(1, max_batch=3)
    go(one)
    assert versions.find(changed.record) is None
    go(changed)
    assert (one.closed, versions.kept()) == (1, [])


def test_a_loaded_version_that_is_no_longer_wanted_is_closed(go, versions):
    go(Version(1))
    unwanted, changed = Version(2), Version(2, max_batch=3)
    versions.add(unwanted)
    versions.add(changed)
    assert unwanted.closed == 1
    versions.close_drained()
    assert changed.closed == 1


def test_a_model_that_goes_takes_what_was_kept_with_it(go, versions):
    one, two = Version(1), Version(2)
    go(one)
    go(two)
    versions.route("m", None)
    versions.close_drained()
    assert (one.closed, two.closed, versions.kept()) == (1, 1, [])


def test_closing_closes_all_even_if_one_raises_and_none_is_waited_for_too_long(go, live, versions):
    one, nine = Version(1), Version(9)
    go(one)
    go(nine, **{CANARY: Version(3)})
    live.lease("m")
    versions.close(0.0)
    assert (one.closed, nine.closed) == (1, 1)
    assert live.routes() == {}
