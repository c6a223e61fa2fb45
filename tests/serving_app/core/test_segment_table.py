"""The table that the request path looks users up in."""

import pytest

from cache_app.core.freshness import Freshness
from serving_app.core.segment_table import SegmentTable, SegmentTerms

pytestmark = pytest.mark.contract("C10")


def name(table, user):
    plan = table.plan_of(user)
    return None if plan is None else plan.terms.name


@pytest.fixture
def table():
    table = SegmentTable(capacity=4)
    assert sorted(table.define({1: SegmentTerms("new"), 2: SegmentTerms("power")})) == [1, 2]
    return table


def test_a_number_and_its_text_are_two_users(table):
    table.move([(7, 1), ("7", 2)])
    assert (name(table, 7), name(table, "7"), name(table, "8")) == ("new", "power", None)


def test_users_move_and_leave(table):
    table.move([("u", 1), ("v", 1)])
    table.move([("u", 2), ("v", None)])
    assert (name(table, "u"), name(table, "v"), len(table)) == ("power", None, 1)
    table.move([("u", 99)])
    assert name(table, "u") is None


def test_new_terms_hold_for_members_at_once(table):
    table.move([("u", 1)])
    terms = SegmentTerms("fresh", Freshness(5.0), "careful")
    assert table.define({1: terms, 2: SegmentTerms("power")}) == []
    assert table.plan_of("u").terms == terms


def test_members_of_a_segment_that_is_gone_are_in_none(table):
    table.move([("u", 1), ("v", 2)])
    table.define({2: SegmentTerms("power")})
    assert (name(table, "u"), name(table, "v")) == (None, "power")
    assert table.define({1: SegmentTerms("new"), 2: SegmentTerms("power")}) == [1]
    assert name(table, "u") is None, "its members are to be read again"


def test_it_is_bounded(table):
    table.move([(n, 1) for n in range(6)])
    assert (len(table), table.refused) == (4, 2)
    table.move([(0, 2)])
    assert name(table, 0) == "power", "one that is held may move"
