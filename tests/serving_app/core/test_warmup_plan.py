"""What several strategies name, merged: no question twice, the best first, within the budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import PluginError, Priority, RecommendationRequest, WarmupCandidate
from serving_app.core.warmup_plan import Interrupted, Weighted, plan, question_digest
from tests.plugins.warmup.activities import activity

pytestmark = pytest.mark.contract("W2")


class Fixed:
    """Names what it was made with."""

    def __init__(self, *candidates):
        self.given = candidates

    def candidates(self, activity, limit):
        return iter(self.given)


def candidate(user, score=1.0, reason="why", **more):
    return WarmupCandidate(RecommendationRequest(user, **more), score, reason)


def users(planned):
    return [each.request.user_id for each in planned]


def test_a_question_of_two_strategies_is_one_and_counts_twice():
    one = Fixed(candidate("a", 3.0, "much"), candidate("b", 2.0, context={"x": 1, "y": [2]}))
    two = Fixed(candidate("b", 1.0, "soon", context={"y": [2], "x": 1}), candidate("c", 2.5))
    merged = plan([Weighted("one", one), Weighted("two", two, 2.0)], activity(), 10)
    assert [(each.request.user_id, each.score) for each in merged] == [
        ("c", 5.0),
        ("b", 4.0),
        ("a", 3.0),
    ]
    assert merged[1].reason == "one: why; two: soon"
    assert {each.request.priority for each in merged} == {Priority.WARM_UP}


def test_users_and_values_of_two_types_are_two_questions():
    given = Fixed(
        candidate(1),
        candidate("1"),
        candidate(1, context={"n": 1}),
        candidate(1, context={"n": "1"}),
    )
    assert len(plan([Weighted("s", given)], activity(), 10)) == 4


def test_the_deeper_of_two_questions_serves_both():
    given = Fixed(candidate(1, k=5), candidate(1, k=50), candidate(1, k=7))
    (only,) = plan([Weighted("s", given)], activity(), 10)
    assert only.request.k == 50


def test_what_one_strategy_wants_renewed_is_renewed():
    early = Fixed(candidate("a"))
    early.renew_before = 60.0
    merged = plan(
        [Weighted("s", Fixed(candidate("a"), candidate("b"))), Weighted("e", early)], activity(), 10
    )
    assert {each.request.user_id: each.renew_before for each in merged} == {"a": 60.0, "b": 0.0}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (candidate("a", float("nan")), "gave the score nan"),
        (candidate("a", model_name="other"), "model 'other', but 'default' is warmed"),
        (candidate("a", context={"x": object()}), "failed: TypeError"),
        ("a", "failed: AttributeError"),
    ],
)
def test_a_strategy_that_gives_nonsense_is_named(bad, says):
    told = []
    with pytest.raises(PluginError, match=f"'odd'.*{says}"):
        plan(
            [Weighted("odd", Fixed(bad))],
            activity(),
            10,
            failed=lambda name, error: told.append((name, error)),
        )
    ((name, _),) = told
    assert name == "odd"


def test_a_strategy_without_an_end_is_cut_and_one_that_takes_long_is_left():
    class Endless:
        def candidates(self, activity, limit):
            n = 0
            while True:
                n += 1
                yield candidate(n)

    assert users(plan([Weighted("s", Endless())], activity(), 3)) == [1, 2, 3]
    asked = iter([True, True, False])
    with pytest.raises(Interrupted):
        plan([Weighted("s", Endless())], activity(), 10**9, going_on=lambda: next(asked))
    assert next(asked, "none left") == "none left"


candidates = st.lists(
    st.builds(
        candidate,
        st.sampled_from([1, "1", 2, "ann"]),
        st.integers(0, 5).map(float),
        context=st.sampled_from([{}, {"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": "1"}]),
    ),
    max_size=12,
)


@given(st.lists(candidates, max_size=3), st.integers(1, 8))
def test_plans_hold_what_they_promise(given_, budget):
    weighted = [Weighted(f"s{i}", Fixed(*each), 1.0 + i) for i, each in enumerate(given_)]
    made = plan(weighted, activity(), budget)
    assert len(made) <= budget
    assert len({each.digest for each in made}) == len(made)
    assert [each.score for each in made] == sorted((each.score for each in made), reverse=True)
    assert [each.digest for each in made] == [
        each.digest for each in plan(weighted, activity(), budget)
    ]
    named = {question_digest(c.request) for each in given_ for c in each[:budget]}
    assert {each.digest for each in made} <= named
    assert len(made) == min(budget, len(named))
