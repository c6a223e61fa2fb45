import subprocess
import sys

import pytest

from serving_app.core.traffic_split import WHOLE, place
from tests.journeys.conftest import ROOT

pytestmark = [pytest.mark.contract("S1"), pytest.mark.contract("S14")]

PINNED = [2156, 4464, 4464, 8511, 7549]
USERS = [f"user-{n}" for n in range(100_000)]


@pytest.fixture(scope="module")
def places():
    return [place("default", 7, user) for user in USERS]


@pytest.mark.parametrize("share", [1, 50, 500, 2_500, 5_000, 9_900, WHOLE])
def test_the_canary_gets_its_share_within_half_a_point(places, share):
    percent = 100 * sum(at < share for at in places) / len(USERS)
    assert percent == pytest.approx(share / 100, abs=0.5)


def test_places_are_spread_evenly(places):
    counts = [0] * 100
    for at in places:
        counts[at // 100] += 1
    # Chi-squared with 99 degrees of freedom: its 99.99 % quantile is 161.
    assert sum((n - 1000) ** 2 / 1000 for n in counts) < 161


def test_another_candidate_gets_other_users_first(places):
    first = {user for user, at in zip(USERS, places, strict=True) if at < 1000}
    second = {user for user in USERS if place("default", 8, user) < 1000}
    assert len(first & second) / len(first) == pytest.approx(0.1, abs=0.02)


def test_every_process_gives_a_user_the_same_place(places):
    code = (
        "from serving_app.core.traffic_split import place\n"
        "print([place('default', 7, f'user-{n}') for n in range(1000)])"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "DJANGO_SETTINGS_MODULE": "tests.settings"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(places[:1000])


def test_places_are_what_they_were_in_the_first_release():
    assert [place("default", 2, user) for user in ("u", "1", 1, "ü", "\ud800")] == PINNED
