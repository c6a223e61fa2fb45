"""The check for strategies finds what it should."""

from dataclasses import replace

import pytest

from plugins import Priority, WarmupCandidate
from plugins.conformance import check_warmup_strategy
from plugins.warmup.popular import Popular

pytestmark = pytest.mark.contract("W1")


class Changed(Popular):
    """Popular, with something wrong."""

    def change(self, chosen, activity, limit):
        return chosen

    def candidates(self, activity, limit):
        return self.change(list(super().candidates(activity, limit)), activity, limit)


def broken(change):
    return type("Broken", (Changed,), {"change": lambda _, *given: change(*given)})


def asks(chosen, **changes):
    return [replace(each, request=replace(each.request, **changes)) for each in chosen]


def unlimited(_, activity, limit):
    return list(Popular().candidates(activity, 50))


def restless(chosen, *_, runs=[]):  # noqa: B006  (it shall remember)
    runs.append(1)
    return chosen[len(runs) % 2 :]


def meddling(chosen, activity, _):
    for each in chosen:
        if each.request.context:
            each.request.context["page"] = "changed"
    return chosen


def curious(chosen, activity, limit):
    for each in list(Popular(minimum=1).candidates(activity, 100)) * 20:
        activity.fresh_for(each.request)
    return chosen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unlimited, "candidates, where at most 0 were wanted"),
        (restless, "other candidates"),
        (meddling, "changed an asking"),
        (curious, "fresh_for was asked"),
        (lambda chosen, *_: chosen[::-1], "better than the one before"),
        (lambda chosen, *_: chosen[:1] * min(2, len(chosen)), "asks what candidate 0 asks"),
        (lambda chosen, *_: [each.request for each in chosen], "is a RecommendationRequest"),
        (lambda chosen, *_: asks(chosen, priority=Priority.LIVE), "priority"),
        (lambda chosen, *_: asks(chosen, model_name="other"), "is warmed"),
        (lambda chosen, *_: asks(chosen, alias=""), "is warmed"),
        (lambda chosen, *_: asks(chosen, timeout=1.0), "deadline"),
        (lambda chosen, *_: [replace(each, score=float("nan")) for each in chosen], "score"),
        (lambda chosen, *_: [replace(each, score=-1.0) for each in chosen], "score"),
        (lambda chosen, *_: [replace(each, reason=" ") for each in chosen], "no reason"),
        (lambda *_: [], "nothing was checked"),
    ],
)
def test_what_breaks_the_contract_is_named(change, message):
    with pytest.raises(AssertionError, match=message):
        check_warmup_strategy(broken(change))


def test_activity_must_not_be_read_again_and_again():
    class Thirsty(Changed):
        def change(self, chosen, activity, limit):
            for _ in range(9):
                list(activity.askings(0, activity.now))
            return chosen

    with pytest.raises(AssertionError, match="read 10 times"):
        check_warmup_strategy(Thirsty)


def test_a_strategy_that_finds_nothing_in_such_activity_may_say_so():
    check_warmup_strategy(broken(lambda *_: []), silent=True)


def test_a_generator_is_as_good_as_a_list():
    class Lazy(Popular):
        def candidates(self, activity, limit):
            yield from (
                WarmupCandidate(*_parts(each)) for each in super().candidates(activity, limit)
            )

    check_warmup_strategy(Lazy)


def _parts(candidate):
    return candidate.request, candidate.score, candidate.reason
