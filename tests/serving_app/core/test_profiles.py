"""Profiles: what counts, and that they stay small."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.drift.cosine import cosine_distance
from serving_app.core.profiles import (
    MOST_TERMS,
    TitleTerms,
    feature_profile,
    prefix_terms,
    profile_of,
)

pytestmark = pytest.mark.contract("C9")

DAY = 86_400.0
TITLES = {
    **{f"t{n}": f"TEA SET RED {n}" for n in range(8)},
    **{f"g{n}": f"GARDEN SPADE RED {n}" for n in range(8)},
    "x": "!!",
}
terms = TitleTerms(TITLES)


def bought(*items, start=0.0, step=DAY):
    return [(start + n * step, item, 1.0) for n, item in enumerate(items)]


def test_more_of_the_same_is_near_and_another_kind_is_far():
    tea = profile_of(bought("t0", "t1", "t2"), terms, half_life=30)
    more = profile_of(bought("t0", "t1", "t2", "t3", "t4", "t5"), terms, half_life=30)
    garden = profile_of(bought("t0", "g1", "g2", "g3", "g4", "g5", "g6"), terms, half_life=30)
    assert cosine_distance(tea, more) == pytest.approx(0.0)
    assert cosine_distance(tea, garden) > 0.5


def test_what_is_long_ago_counts_less():
    both = [*bought("t0"), *bought("g0", start=60 * DAY)]
    recent = profile_of(both, terms, half_life=10)
    assert recent["garden"] > 30 * recent["tea"]
    assert profile_of(both, terms, half_life=1e9)["garden"] == pytest.approx(
        profile_of(both, terms, half_life=1e9)["tea"]
    )


def test_common_words_weigh_less():
    profile = profile_of(bought("t0"), terms, half_life=30)
    assert profile["red"] < profile["tea"] == profile["set"]


def test_what_has_no_words_is_a_term_itself():
    assert terms("x") == {"#x": 1.0}
    assert terms("never heard of") == {"#never heard of": 1.0}
    assert prefix_terms(3)("85123A") == {"851": 1.0}
    assert prefix_terms(0)("85123A") == {"85123A": 1.0}


def test_returns_count_nothing_and_pieces_little():
    assert profile_of([(0.0, "t0", -3.0)], terms, half_life=1) == {}
    many = profile_of([(0.0, "a", 80_000.0), (0.0, "b", 1.0)], prefix_terms(0), half_life=1)
    assert 2 < many["a"] / many["b"] < 4


deeds = st.lists(
    st.tuples(
        st.floats(0, 1e9),
        st.text(max_size=80),
        st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32),
    ),
    max_size=100,
)


@given(deeds, st.floats(0.01, 1e6))
def test_any_profile_is_short_and_of_length_one(deeds, half_life):
    for each in (prefix_terms(0), terms):
        profile = profile_of(deeds, each, half_life=half_life)
        assert len(profile) <= MOST_TERMS
        assert not profile or math.isclose(math.hypot(*profile.values()), 1.0)
        assert all(len(term) <= 64 for term in profile)


@given(st.dictionaries(st.text(max_size=5), st.floats(-1e300, 1e300), max_size=100))
def test_features_too(features):
    profile = feature_profile(features)
    assert len(profile) <= MOST_TERMS
    assert not profile or math.isclose(math.hypot(*profile.values()), 1.0)
