"""Drift rules: the built-in one, and the check for authors."""

import pytest

from plugins import DriftCase, DriftVerdict
from plugins.apps import get_registry
from plugins.conformance import check_drift_rule
from plugins.drift.cosine import CosineRule, cosine_distance
from plugins.errors import InvalidOptions

pytestmark = [pytest.mark.contract("C9"), pytest.mark.contract("O7")]

TEA = {"tea": 1.0}
MIXED = {"tea": 0.6, "toys": 0.8}  # 0.4 away from tea
TOYS = {"toys": 1.0}


def case(now, *, before=TEA, events=10, suspected=0, source="events"):
    return DriftCase(before, now, events, 60.0, suspected, source)


def judged(rule, *args, **more):
    verdict = rule.judge(case(*args, **more))
    return verdict.action, verdict.suspects


def test_it_does_what_every_rule_must():
    check_drift_rule(CosineRule)
    check_drift_rule(lambda: CosineRule(confirm=3, refresh_at=0.9, settle_at=0.1, drop_at=2.0))
    assert get_registry().drift_rules.names() == ("cosine",)


def test_a_change_must_be_confirmed():
    rule = CosineRule(refresh_at=0.5, settle_at=0.3, confirm=2, drop_at=2.0)
    assert judged(rule, TOYS) == ("keep", True)
    assert judged(rule, TOYS, suspected=1) == ("keep", True)
    assert judged(rule, TOYS, suspected=2) == ("refresh", False)


def test_between_the_bounds_only_what_is_suspected_counts():
    rule = CosineRule(refresh_at=0.5, settle_at=0.3)
    assert judged(rule, MIXED) == ("keep", False), "not far enough to begin with"
    assert judged(rule, MIXED, suspected=1) == ("refresh", False), "but not settled, either"
    assert judged(rule, TEA, suspected=1) == ("keep", False)


def test_few_events_decide_nothing_and_forget_no_suspicion():
    rule = CosineRule(min_events=5)
    assert judged(rule, TOYS, events=4) == ("keep", False)
    assert judged(rule, TOYS, events=4, suspected=1) == ("keep", True)
    assert judged(rule, TOYS, events=5) == ("keep", True)


def test_a_feature_vector_needs_no_more_of_them():
    rule = CosineRule()
    assert judged(rule, TOYS, events=1, source="features") == ("drop", False)
    assert judged(rule, MIXED, events=1, source="features") == ("keep", False)


def test_everything_changed_drops():
    assert judged(CosineRule(), TOYS, suspected=1) == ("drop", False)
    assert judged(CosineRule(drop_at=1.5), TOYS, suspected=1) == ("refresh", False)


def test_distances():
    assert cosine_distance({}, {}) == 0
    assert cosine_distance({}, TEA) == 1
    assert cosine_distance(TEA, {"tea": -1.0}) == 1
    assert cosine_distance(TEA, MIXED) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"refresh_at": 0.2}, "settle_at <= refresh_at"),
        ({"drop_at": 0.1}, "drop_at"),
        ({"confirm": -1}, "confirm"),
        ({"min_events": 0}, "min_events"),
        ({"refreshat": 0.5}, "is no option"),
    ],
)
def test_options_that_cannot_be_are_refused(options, says):
    with pytest.raises(InvalidOptions, match=says):
        get_registry().drift_rules.create("cosine", options)


class Wrong:
    def __init__(self, **verdict):
        self.verdict = verdict

    def judge(self, case):
        distance = cosine_distance(case.before, case.now)
        action = "drop" if distance >= 0.9 else "keep"
        given = {"action": action, "distance": distance, "reason": "because", **self.verdict}
        return DriftVerdict(**given)


class Moody(Wrong):
    calls = 0

    def judge(self, case):
        self.calls += 1
        return DriftVerdict(super().judge(case).action, 0.0, f"call {self.calls}")


class Greedy(Wrong):
    def judge(self, case):
        verdict = super().judge(case)
        case.now.clear()
        return verdict


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Wrong(action="drop"), "nothing changed"),
        (Wrong(action="keep"), "everything changed"),
        (Wrong(action="forget"), "is none of"),
        (Wrong(distance=7.0), "not 0 to 1"),
        (Wrong(distance=float("nan")), "distance is nan"),
        (Wrong(distance=0.0), "does not grow"),
        (Wrong(reason=""), "no reason"),
        (Wrong(reason="a\nb"), "one line"),
        (Wrong(suspects=True), "acts and suspects"),
        (Moody(), "does not grow|two ways"),
        (Greedy(), "changed the case|everything changed"),
    ],
)
def test_the_check_names_what_is_wrong(rule, says):
    with pytest.raises(AssertionError, match=says):
        check_drift_rule(lambda: rule)
    check_drift_rule(Wrong)
