import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_app.core.rank_overlap import PERSISTENCE, overlap, rank_biased_overlap

pytestmark = pytest.mark.contract("S14")

rankings = st.lists(st.sampled_from("abcdefghijklmnop"), unique=True, min_size=10, max_size=10)


@given(one=rankings, other=rankings)
def test_both_are_symmetric_and_between_nothing_and_all(one, other):
    for measure in (overlap, rank_biased_overlap):
        assert measure(one, other, 10) == pytest.approx(measure(other, one, 10))
        assert 0 <= measure(one, other, 10) <= 1 + 1e-9
        assert measure(one, one, 10) == pytest.approx(1)


@given(one=rankings, other=rankings)
def test_rank_biased_overlap_is_the_sum_of_its_definition(one, other):
    p, depth = PERSISTENCE, 10
    agreements = [len(set(one[:d]) & set(other[:d])) / d for d in range(1, depth + 1)]
    total = sum(p**d * agreement for d, agreement in enumerate(agreements, 1))
    expected = agreements[-1] * p**depth + (1 - p) / p * total
    assert rank_biased_overlap(one, other, depth) == pytest.approx(expected)


def test_the_top_weighs_more():
    base = list("abcdefghij")
    top, bottom = ["b", "a", *base[2:]], [*base[:8], "j", "i"]
    assert overlap(base, top, 10) == overlap(base, bottom, 10) == 1
    assert rank_biased_overlap(base, top, 10) < rank_biased_overlap(base, bottom, 10) < 1


def test_short_and_empty_rankings():
    assert overlap(["a"], ["a"], 10) == 1
    assert overlap([], [], 10) == rank_biased_overlap([], [], 10) == 1
    assert rank_biased_overlap(["a"], [], 10) == 0
    assert overlap(["a", "b"], ["a", "c"], 10) == 0.5
