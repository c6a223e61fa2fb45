"""How the benchmark of what grows judges its steps."""

from __future__ import annotations

import pytest

from benchmarks.growth import SLACK, worst_steps

pytestmark = pytest.mark.contract("O6")


def test_a_miss_may_grow_by_the_factor_of_the_bare_model():
    steps = {
        1_000: {"bare": 10.0, "miss": 100.0},
        10_000: {"bare": 100.0, "miss": 200.0},
        100_000: {"bare": 150.0, "miss": 600.0},
    }
    ((value, bar),) = worst_steps({"catalogue": steps}, 100.0).values()
    assert (value, bar) == (pytest.approx(3.0 / 1.5), SLACK)


def test_a_hit_may_grow_by_what_the_model_takes_for_a_row():
    steps = {1: {"hit": 20.0, "miss": 90.0}, 5: {"hit": 21.0, "miss": 80.0}, 10: {"hit": 25.0}}
    steps[10]["miss"] = 95.0
    found = worst_steps({"models": steps}, 60.0)
    assert found == {
        "models hit: µs added by a step": (4.0, 60.0),
        "models miss: µs added by a step": (15.0, 60.0),
    }


def test_one_step_has_nothing_to_be_compared_with():
    assert worst_steps({"users": {1_000: {"hit": 20.0, "KiB a user": 9.0}}}, 60.0) == {}
