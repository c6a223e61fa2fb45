"""Two requests are one question if, and only if, one cached answer serves both."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache_app.core.keys import recommendation_key
from plugins import Asking, InvalidInput, Priority, RecommendationRequest, question_of

pytestmark = pytest.mark.contract("W2")

few = st.sampled_from([None, True, False, 0, 1, -1, 1.0, 0.5, -0.0, "", "1", "a", "é", "null"])
values = st.recursive(
    few,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.sampled_from("ab"), each),
    max_leaves=4,
)
contexts = st.dictionaries(st.sampled_from(["a", "b"]), values) | st.fixed_dictionaries(
    {"tags": st.lists(st.sampled_from("ab"), max_size=3)}
)
requests = st.builds(
    RecommendationRequest,
    user_id=st.sampled_from([1, "1", "a"]),
    context=contexts,
    k=st.sampled_from([5, 10]),
    priority=st.sampled_from(Priority),
)


def key(request):
    return recommendation_key(
        namespace="n",
        model_name=request.model_name,
        version=1,
        fingerprint="f",
        segment="all",
        user_id=request.user_id,
        context=request.context,
    )


@given(requests, requests)
@example(
    RecommendationRequest(1, context={"tags": ["a", "b"], "p": 1}),
    RecommendationRequest(1, context={"p": 1, "tags": ["b", "a", "b"]}),
)
def test_a_question_is_what_the_key_says(one, other):
    assert (question_of(one) == question_of(other)) == (key(one) == key(other))


def test_model_alias_and_features_are_part_of_it():
    given = RecommendationRequest(1)
    for other in (
        RecommendationRequest(1, model_name="other"),
        RecommendationRequest(1, alias="canary"),
        RecommendationRequest(1, features={"a": 1.0}),
    ):
        assert question_of(other) != question_of(given)


@pytest.mark.parametrize("context", [{"a": float("nan")}, {"a": object()}, {"a": {1, 2}}])
def test_what_is_no_json_is_no_question(context):
    with pytest.raises((TypeError, ValueError)):
        question_of(RecommendationRequest(1, context=context))
    with pytest.raises(InvalidInput):
        key(RecommendationRequest(1, context=context))


def test_a_context_that_contains_itself_is_refused():
    context = {}
    context["a"] = context
    with pytest.raises(ValueError, match=r"[Cc]ircular|nested"):
        question_of(RecommendationRequest(1, context=context))


def test_an_asking_becomes_the_question_it_was():
    asking = Asking(1, "m", "canary", {"a": [1]}, hour=0.0, count=3, last=9.0)
    assert asking.request() == RecommendationRequest(
        1, "m", "canary", context={"a": [1]}, priority=Priority.WARM_UP
    )
