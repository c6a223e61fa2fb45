"""What makes two requests equal."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cache_app.core.keys import (
    _quoted,
    digest_features,
    entry_of,
    in_generation,
    in_namespace,
    matcher,
    recommendation_key,
)
from plugins.errors import InvalidInput

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.contract("C4")

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXTS, each, max_size=3),
    max_leaves=8,
)
CONTEXTS = st.dictionaries(TEXTS, JSON, max_size=4)
USERS = st.integers() | TEXTS


def key(**changes):
    request = {
        "namespace": "recserve",
        "model_name": "movies",
        "version": 3,
        "fingerprint": "9f86d081",
        "segment": "all",
        "user_id": 42,
        "context": {},
    }
    return recommendation_key(**{**request, **changes})


def test_a_key_can_be_read():
    assert key() == "recserve:movies:3-9f86d081:all:i42:-:-:0"
    assert (
        key(user_id="ann:1", features_digest="abc")
        == "recserve:movies:3-9f86d081:all:sann%3A1:-:abc:0"
    )
    assert key(features_digest=b"\x01") == key(features_digest="01")


def canonical(value):
    """Return text that is equal only for JSON values that are."""
    return json.dumps(value, sort_keys=True)


@given(st.tuples(TEXTS, TEXTS, st.integers(0, 9), TEXTS, TEXTS, USERS, CONTEXTS), st.data())
def test_keys_are_equal_only_for_equal_requests(parts, data):
    other = list(parts)
    place = data.draw(st.integers(0, 6))
    strategies = (TEXTS, TEXTS, st.integers(0, 9), TEXTS, TEXTS, USERS, CONTEXTS)
    other[place] = data.draw(strategies[place])
    names = ("namespace", "model_name", "version", "fingerprint", "segment", "user_id", "context")
    one = recommendation_key(**dict(zip(names, parts, strict=True)))
    two = recommendation_key(**dict(zip(names, other, strict=True)))
    assert (one == two) == (canonical(parts) == canonical(other))


def reversed_names(value):
    if isinstance(value, dict):
        return {name: reversed_names(value[name]) for name in reversed(list(value))}
    return [reversed_names(each) for each in value] if isinstance(value, list) else value


@given(CONTEXTS)
def test_the_order_of_names_never_matters(context):
    assert key(context=context) == key(context=reversed_names(context))
    assert key(context=context) == key(context=MappingProxyType(context))


@pytest.mark.parametrize(
    "values",
    [(1, "1", 1.0, True), (0, False, None, "", "0"), ([], {}, "[]", [[[]]], 10**400, 10**400 + 1)],
)
def test_values_that_look_alike_never_collide(values):
    contexts = [{"x": value} for value in values] + [{"x": [value]} for value in values]
    assert len({key(context=context) for context in contexts}) == len(contexts)


def test_a_user_that_looks_alike_never_collides():
    users = [1, "1", "i1", "s1", "", "-", "1:", "1%3A"]
    assert len({key(user_id=user) for user in users}) == len(users)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        b"bytes",
        {1, 2},
        {1: "an int as a name"},
        {"deep": [{None: 1}]},
        datetime(2024, 1, 1, tzinfo=UTC),
        object(),
        np.float32(1),
        pytest.param(10**5000, id="huge"),
        pytest.param("\ud800", id="surrogate"),
    ],
)
def test_a_context_that_is_no_json_is_refused(value):
    with pytest.raises(InvalidInput, match="context") as caught:
        key(context={"x": value})
    assert caught.value.field == "context"


def test_a_context_that_contains_itself_is_refused():
    context = {}
    context["x"] = context
    with pytest.raises(InvalidInput):
        key(context=context)


@pytest.mark.parametrize(
    "user",
    [
        True,
        1.5,
        None,
        pytest.param("\ud800", id="surrogate"),
        pytest.param(10**5000, id="huge"),
        b"1",
    ],
)
def test_a_user_that_is_neither_text_nor_int_is_refused(user):
    with pytest.raises(InvalidInput) as caught:
        key(user_id=user)
    assert caught.value.field == "user_id"


def test_features_are_digested_alike_whatever_their_place_in_memory():
    row = np.array([1, 2.5, -3], np.float32)
    digests = {
        digest_features([row]),
        digest_features([row.astype(">f4")]),
        digest_features([np.repeat(row, 2)[::2]]),
    }
    assert len(digests) == 1
    assert digest_features([row[::-1]]) not in digests
    assert digest_features([row.astype(np.float64)]) not in digests


any_array = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "|b1", "|u1"]).flatmap(
    lambda dtype: (
        arrays.arrays(dtype, st.integers(0, 3), elements={"min_value": 0, "max_value": 1})
        if dtype != "|b1"
        else arrays.arrays(dtype, st.integers(0, 3))
    )
)
rows = st.lists(any_array, max_size=3)


@pytest.mark.contract("C4")
@settings(deadline=None)  # the machine may be busy
@given(rows, rows)
def test_rows_of_arrays_have_one_digest_only_if_they_are_the_same(one, other):
    def plain(row):
        return [(a.dtype.str, a.shape, a.tobytes()) for a in row]

    assert (digest_features(one) == digest_features(other)) == (plain(one) == plain(other))


@pytest.mark.contract("C4")
def test_values_do_not_move_between_arrays():
    def of(*parts):
        return digest_features([np.array(part) for part in parts])

    assert of([1, 2], [3]) != of([1], [2, 3])
    assert of([1]) != of([1.0])
    assert of([1]) != of([True])
    assert of([], [1]) != of([1], [])
    assert of([1]) != of([1], [])


PROGRAM = """
import numpy as np
from cache_app.core.keys import digest_features, recommendation_key
print(recommendation_key(namespace="n", model_name="m", version=1,
    fingerprint="f", segment="s", user_id="ü:1",
    context={"b": [1, {"y": None, "x": 2.5}], "a": "é"},
    features_digest=digest_features([np.arange(3, dtype=np.float32)])))
"""


def test_every_process_makes_the_same_key():
    keys = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        ).stdout.strip()
        for seed in ("0", "1", "77")
    }
    # Pinned, as machines share keys: they change only on purpose.
    assert keys == {
        "n:m:1-f:s:s%C3%BC%3A1:eb0f08fc7f260ed83fbde57067423538:5b625d1e522cce32df246677f2f2191a:0"
    }


class TestMatcher:
    def test_it_matches_all_that_is_given(self):
        assert matcher(model_name="movies")(key())
        assert not matcher(model_name="movie")(key())
        assert matcher(model_name="a:b")(key(model_name="a:b"))
        assert matcher(version=3, user_id=42, namespace="recserve")(key())
        assert not matcher(version=4, user_id=42)(key())
        assert not matcher(version=3)(key(version=33))
        assert matcher()(key())
        assert not matcher()("no key of ours")

    def test_a_text_means_the_int_too(self):
        assert matcher(user_id="42")(key(user_id=42))
        assert matcher(user_id="42")(key(user_id="42"))
        assert not matcher(user_id="042")(key(user_id=42))
        assert not matcher(user_id="4")(key(user_id=42))
        assert not matcher(user_id=42)(key(user_id="42"))
        assert matcher(user_id="-7")(key(user_id=-7))

    @given(USERS, TEXTS)
    def test_it_finds_every_key_it_should(self, user, model):
        found = key(user_id=user, model_name=model)
        assert matcher(user_id=user, model_name=model)(found)
        assert matcher(user_id=str(user))(found)


@pytest.mark.contract("C8")
def test_tags_are_part_of_the_question_and_their_order_says_nothing():
    def tagged(*tags):
        return key(context={"page": 1, "tags": list(tags)})

    assert tagged("a", "b") == tagged("b", "a") == tagged("b", "a", "b")
    assert len({tagged(), tagged("a"), tagged("b"), tagged("a", "b")}) == 4
    with pytest.raises(InvalidInput, match="A tag must be") as caught:
        tagged("a", 7)
    assert caught.value.field == "context.tags[1]"


def test_a_key_without_its_generation_is_the_same_entry_in_every_one():
    entry = key(generation="")
    assert {entry_of(key(generation=each)) for each in ("0", "17", "doubt-3-1")} == {entry}
    assert entry_of(entry) == entry
    assert in_generation(entry, "17") == key(generation="17")
    assert entry.startswith(in_namespace("recserve"))


@given(st.text(st.characters(codec="utf-8")))
def test_quoting_is_only_ever_skipped_where_it_would_change_nothing(text):
    assert _quoted(text) == quote(text, safe="")
