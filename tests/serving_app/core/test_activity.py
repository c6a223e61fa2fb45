"""Counting what was asked: exact, bounded, and the same however it is split."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_app.core.keys import recommendation_key
from serving_app.core.activity import (
    HOUR,
    ActivityCounts,
    Asked,
    Counted,
    NewEvent,
    context_text,
    hour_of,
    storable,
    visits,
)

pytestmark = pytest.mark.contract("W1")

askings = st.lists(
    st.tuples(
        st.builds(
            Asked,
            hour=st.sampled_from([0, HOUR]),
            kind=st.sampled_from(["request", "view"]),
            model=st.sampled_from(["a", "b"]),
            alias=st.sampled_from(["", "canary"]),
            user=st.sampled_from(["1", 1, "u"]),
            context=st.sampled_from(["{}", '{"page":"home"}']),
            own_features=st.booleans(),
        ),
        st.floats(0, 2 * HOUR),
        st.integers(1, 5),
    ),
    max_size=40,
)


def counted(asked, capacity=1000):
    counts, refused = ActivityCounts(capacity), 0
    for question, at, n in asked:
        refused += 0 if counts.add(question, at, n) else n
    return counts, refused


@given(askings, st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_merging_the_counts_of_parts_is_counting_the_whole(asked, owners):
    whole, _ = counted(asked)
    merged = ActivityCounts(1000)
    for process in range(3):
        part, _ = counted(
            [each for each, owner in zip(asked, owners, strict=False) if owner == process]
        )
        assert merged.merge(part.take()) == 0
    assert merged.take() == whole.take()


@given(askings, st.integers(1, 5))
def test_nothing_is_lost_uncounted_when_there_is_no_room(asked, capacity):
    counts, refused = counted(asked, capacity)
    assert len(counts) <= capacity
    taken = counts.take()
    assert sum(c.count for c in taken.values()) + refused == sum(n for _, _, n in asked)
    other = ActivityCounts(1)
    lost = other.merge(taken)
    kept = sum(c.count for c in other.take().values())
    assert lost + kept + refused == sum(n for _, _, n in asked)
    assert len(counts) == 0, "taken"


@given(askings)
def test_a_digest_is_one_question_in_one_hour(asked):
    questions = {question for question, _, _ in asked}
    assert len({question.digest() for question in questions}) == len(questions)
    assert all(len(question.digest()) == 32 for question in questions)


contexts = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


def key(context):
    return recommendation_key(
        namespace="n",
        model_name="m",
        version=1,
        fingerprint="f",
        segment="all",
        user_id="u",
        context=context,
        features_digest="",
        generation="",
    )


@pytest.mark.contract("W4")
@given(contexts)
def test_a_context_read_back_gives_the_same_cache_key(context):
    text = context_text(context)
    assert "\0" not in text
    assert key(json.loads(text)) == key(context)
    assert context_text(dict(reversed(context.items()))) == text


def test_what_is_no_json_is_refused():
    with pytest.raises(TypeError):
        context_text({"a": object()})
    endless = {}
    endless["me"] = endless
    with pytest.raises(ValueError, match="nested"):
        context_text(endless)
    deep = {}
    for _ in range(100_000):
        deep = {"in": deep}
    with pytest.raises(ValueError, match="nested"):
        context_text(deep)


def test_users_that_fit_the_database():
    assert storable("u" * 256)
    assert storable(10**200)
    assert not storable("u" * 257)
    assert not storable("a\0b")
    assert not storable(10**400)


def test_an_hour_begins_at_its_start():
    assert hour_of(7199.9) == HOUR
    assert hour_of(7200.0) == 2 * HOUR


def test_what_a_user_did_at_one_instant_counts_once():
    events = [
        NewEvent("u", "a", "purchase", "m", 10.0),
        NewEvent("u", "b", "purchase", "m", 10.0),
        NewEvent("u", "a", "view", "m", 10.0),
        NewEvent("u", "a", "purchase", "m", 20.0),
        NewEvent("v", "a", "purchase", "m", 10.0),
        NewEvent(7, "a", "purchase", "m", HOUR + 1.0),
        NewEvent("7", "a", "purchase", "m", HOUR + 1.0),
    ]
    found = visits(events)
    assert {(a.user, a.kind, a.hour): c for a, c in found.items()} == {
        ("u", "purchase", 0): Counted(2, 20.0),
        ("u", "view", 0): Counted(1, 10.0),
        ("v", "purchase", 0): Counted(1, 10.0),
        (7, "purchase", HOUR): Counted(1, HOUR + 1.0),
        ("7", "purchase", HOUR): Counted(1, HOUR + 1.0),
    }
