"""Rules: what they look at, when that changes by itself, and that the first that holds wins."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving_app.core.activity import HOUR
from serving_app.core.segment_rules import (
    COMPARISONS,
    DAY,
    FIELDS,
    Condition,
    Counts,
    Deed,
    Facts,
    Rule,
    choose,
)

pytestmark = pytest.mark.contract("C10")

NOW = 1_700_000_000.0

FACTS = Facts(
    first=NOW - 20 * DAY,
    last=NOW - 2 * DAY,
    counts=(
        Counts("request", NOW - 20 * DAY, 5),
        Counts("request", NOW - 3 * DAY, 2),
        Counts("purchase", NOW - 2 * DAY, 1),
        Counts("view", NOW - 2 * DAY, 4),
    ),
    deeds=(
        Deed(NOW - 2 * DAY, "a", 10.0),
        Deed(NOW - 3 * DAY, "b", 20.0),
        Deed(NOW - 9 * DAY, "a", None),
        Deed(NOW - 9 * DAY, "c", 300.0),
    ),
)


@pytest.mark.parametrize(
    ("field", "window", "value"),
    [
        ("age_days", None, 20.0),
        ("idle_days", None, 2.0),
        ("requests", None, 7),
        ("requests", 7, 2),
        ("events", 7, 5),
        ("purchases", None, 1),
        ("views", 1, 0),
        ("ratings", None, 0),
        ("active_days", None, 3),
        ("active_days", 4, 2),
        ("distinct_items", None, 3),
        ("distinct_items", 7, 2),
        ("mean_value", None, 110.0),
        ("mean_value", 7, 15.0),
        ("total_value", 7, 30.0),
    ],
)
def test_a_field_measures_what_it_says(field, window, value):
    seconds = None if window is None else window * DAY
    for comparison, holds in {"lt": False, "le": True, "gt": False, "ge": True}.items():
        condition = Condition(field, comparison, value, seconds)
        assert condition.holds(FACTS, NOW) is holds, str(condition)
    assert Condition(field, "gt", value - 0.5, seconds).holds(FACTS, NOW)


def test_a_mean_of_nothing_compares_with_nothing():
    nobody = Facts(NOW, NOW)
    assert not any(Condition("mean_value", c, 0.0).holds(nobody, NOW) for c in ("le", "ge", "lt"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("age", "lt", 1.0), "field must be one of age_days"),
        (("views", "==", 1.0), "comparison must be one of lt"),
        (("views", "lt", math.nan), "finite"),
        (("mean_value", "eq", 1.0), "never equals"),
        (("age_days", "eq", 1.0), "never equals"),
        (("age_days", "lt", 1.0, DAY), "no window"),
        (("views", "lt", 1.0, 0.0), "positive number of days"),
        (("views", "lt", 1.0, math.inf), "positive number of days"),
    ],
)
def test_nonsense_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        Condition(*arguments)


def test_the_first_rule_that_holds_wins():
    rules = [
        Rule(1, (Condition("age_days", "lt", 7.0),)),
        Rule(2, (Condition("requests", "ge", 7.0), Condition("idle_days", "lt", 1.0))),
        Rule(3, (Condition("requests", "ge", 7.0),)),
        Rule(4),
    ]
    assert choose(rules, FACTS, NOW)[0] == 3
    assert choose(rules[:2], FACTS, NOW) == (None, math.inf)
    assert choose(rules[3:], FACTS, NOW) == (4, math.inf)


def test_a_new_user_is_new_until_a_known_instant():
    rules = [Rule(1, (Condition("age_days", "le", 30.0),))]
    segment, due = choose(rules, FACTS, NOW)
    assert (segment, round(due, 2)) == (1, NOW + 10 * DAY)
    assert choose(rules, FACTS, due) == (None, math.inf)


offsets = st.floats(-40 * DAY, 0.0).map(lambda seconds: NOW + round(seconds))
kinds = st.sampled_from(["request", "view", "purchase", "rating"])
values = st.none() | st.floats(-1e3, 1e3)
some_facts = st.builds(
    lambda first, counts, deeds: Facts(
        min([first, *(c.hour for c in counts), *(d.at for d in deeds)]),
        max([first, *(c.hour for c in counts), *(d.at for d in deeds)]),
        counts,
        deeds,
    ),
    offsets,
    st.lists(
        st.builds(Counts, kinds, offsets.map(lambda at: at // HOUR * HOUR), st.integers(1, 9)),
        max_size=6,
    ),
    st.lists(st.builds(Deed, offsets, st.sampled_from("abc"), values), max_size=6),
)


@st.composite
def conditions(draw):
    field = draw(st.sampled_from(sorted(FIELDS)))
    names = [name for name in COMPARISONS if name != "eq" or FIELDS[field].whole]
    window = draw(st.none() | st.floats(0.1, 40.0)) if FIELDS[field].has_window else None
    value = draw(st.floats(0, 45) | st.integers(0, 9))
    seconds = None if window is None else window * DAY
    return Condition(field, draw(st.sampled_from(names)), float(value), seconds)


some_rules = st.lists(
    st.builds(lambda cs: cs, st.lists(conditions(), max_size=3)), min_size=1, max_size=4
).map(lambda lists: [Rule(n, tuple(cs)) for n, cs in enumerate(lists)])


@given(some_rules, some_facts, st.lists(st.floats(0, 60 * DAY), max_size=30))
def test_nothing_changes_before_it_is_due(rules, facts, later):
    segment, due = choose(rules, facts, NOW)
    assert due > NOW
    for seconds in later:
        if NOW + seconds < due - 0.01:
            assert choose(rules, facts, NOW + seconds)[0] == segment


@given(some_rules, some_facts)
@example([Rule(0, (Condition("age_days", "le", 0.0),))], Facts(first=NOW, last=NOW))
def test_who_is_looked_at_when_due_is_always_where_he_belongs(rules, facts):
    """Stepping from one due instant to the next misses no change in between."""
    at, steps = NOW, []
    while at < NOW + 90 * DAY and len(steps) < 60:
        segment, due = choose(rules, facts, at)
        steps.append((at, due, segment))
        at = due
    for start, due, segment in steps:
        if due - start < 0.01:
            continue  # it began at a bound, just after which a rule is asked again
        middle = start + (min(due, NOW + 90 * DAY) - start) / 2
        assert choose(rules, facts, middle)[0] == segment
