"""What every drift rule must do, as a test that its author can call."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from random import Random
from typing import get_args

from plugins.drift_contracts import DriftAction, DriftCase, DriftRule, DriftVerdict

__all__ = ["check_drift_rule"]

_SAME = {"garden": 0.6, "tea": 0.8}
_OTHER = {"toys": 1.0}


def check_drift_rule(factory: Callable[[], DriftRule], *, cases: int = 500) -> None:
    """Check that a drift rule judges as its contract says.

    Args:
        factory: Makes the rule.
        cases: How many random cases it judges besides.

    Raises:
        AssertionError: The rule breaks its contract; the message says where.
    """
    rule = factory()
    same = _judge(rule, _case(_SAME, _SAME))
    assert same.action == "keep", f"{same.action} although nothing changed: {same.reason}"
    assert same.distance == 0, f"The distance of a profile to itself is {same.distance}, not 0."
    changed = _confirmed(rule)
    assert changed.action != "keep", (
        f"{changed.reason!r}: kept, although everything changed and the change was suspected for "
        "100 looks with 1,000 events."
    )
    assert changed.distance > same.distance, "The distance does not grow with the change."
    random = Random(0)  # noqa: S311  (it makes test cases)
    for _ in range(cases):
        case = _random_case(random)
        kept = copy.deepcopy(case)
        verdict = _judge(rule, case)
        assert case == kept, "judge changed the case."
        assert _judge(rule, case) == verdict, "The same case was judged in two ways."


def _confirmed(rule: DriftRule) -> DriftVerdict:
    suspected = 0
    verdict = _judge(rule, _case(_SAME, _OTHER))
    while verdict.action == "keep" and suspected < 100:
        suspected = suspected + 1 if verdict.suspects else 0
        verdict = _judge(rule, _case(_SAME, _OTHER, suspected=suspected))
        if not verdict.suspects:
            break
    return verdict


def _case(
    before: Mapping[str, float], now: Mapping[str, float], *, suspected: int = 0
) -> DriftCase:
    return DriftCase(dict(before), dict(now), 1000, 86_400.0, suspected, "events")


def _judge(rule: DriftRule, case: DriftCase) -> DriftVerdict:
    verdict = rule.judge(case)
    assert isinstance(verdict, DriftVerdict), f"judge returned {verdict!r}, no DriftVerdict."
    actions = get_args(DriftAction)
    assert verdict.action in actions, f"{verdict.action!r} is none of {', '.join(actions)}."
    assert isinstance(verdict.distance, float | int), f"The distance is {verdict.distance!r}."
    assert math.isfinite(verdict.distance), f"The distance is {verdict.distance}."
    assert 0 <= verdict.distance <= 1, f"The distance is {verdict.distance}, not 0 to 1."
    assert isinstance(verdict.reason, str), f"The reason is {verdict.reason!r}, no text."
    assert verdict.reason, "There is no reason."
    assert "\n" not in verdict.reason, f"The reason is more than one line: {verdict.reason!r}"
    assert verdict.action == "keep" or not verdict.suspects, "It acts and suspects at once."
    return verdict


def _random_case(random: Random) -> DriftCase:
    def profile() -> dict[str, float]:
        terms = random.sample("abcdef", random.randint(0, 4))
        weights = {term: random.uniform(-1, 1) for term in terms}
        length = math.sqrt(sum(w * w for w in weights.values()))
        return {term: weight / length for term, weight in weights.items()} if length else {}

    return DriftCase(
        profile(),
        profile(),
        random.choice([0, 1, 3, 10, 10_000]),
        random.choice([0.0, 60.0, 1e7]),
        random.choice([0, 1, 5]),
        random.choice(["events", "features"]),
    )
