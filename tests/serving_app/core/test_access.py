import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import ModelNotPermitted
from serving_app.core.access import ROLES, Access, RememberedAccess
from tests.fakes import FakeClock

A = Access("user:1", frozenset({"predict"}))


def memory(clock, **more):
    return RememberedAccess(
        **{"capacity": 3, "trusted": 2.0, "clock": clock, "monotonic": clock, **more}
    )


@pytest.mark.contract("A5")
def test_what_is_remembered_counts_until_it_expires_or_is_not_looked_at_or_access_changes():
    clock = FakeClock()
    known = memory(clock)
    known.saw(1)
    known.add(b"t", A, epoch=1)
    known.add(b"short", Access("user:2", A.permissions, expires=clock() + 1), epoch=1)
    assert known.find(b"t") is A
    assert known.find(b"other") is None
    clock.advance(1.0)
    assert known.find(b"short") is None
    clock.advance(1.5)
    assert known.find(b"t") is None, "nobody has looked for too long"
    assert known.find(b"t", within=300) is A
    known.saw(1)
    assert known.find(b"t") is A
    known.saw(2)
    assert known.find(b"t", within=300) is None


@pytest.mark.contract("A5")
def test_what_was_read_before_a_change_is_not_remembered_after_it():
    known = memory(FakeClock())
    known.saw(2)
    known.add(b"t", A, epoch=1)
    assert known.find(b"t") is None


@given(st.lists(st.tuples(st.sampled_from(["add", "saw", "find"]), st.integers(0, 9))))
def test_no_more_is_remembered_than_the_capacity_and_never_anothers(operations):
    known = memory(FakeClock())
    epoch = 0
    known.saw(epoch)
    added = set()
    for what, n in operations:
        token = str(n).encode()
        if what == "add":
            known.add(token, Access(f"user:{n}", frozenset()), epoch=epoch)
            added.add(n)
        elif what == "saw":
            epoch += 1
            known.saw(epoch)
            added.clear()
        else:
            found = known.find(token)
            assert found is None or (found.subject == f"user:{n}" and n in added)
        assert len(known) <= 3


def test_the_role_is_the_strongest_permission():
    assert Access("x", frozenset(ROLES)).role == "administer"
    assert Access("x", frozenset({"operate", "predict"})).role == "operate"
    assert Access("x", frozenset()).role == ""


@pytest.mark.contract("A5")
def test_other_models_are_refused_whether_or_not_they_exist():
    limited = Access("x", frozenset({"predict"}), frozenset({"a"}))
    limited.check_model("a")
    with pytest.raises(ModelNotPermitted, match="'b'"):
        limited.check_model("b")
    A.check_model("b")
