"""What the benchmark of the whole server asks, and how it compares."""

from __future__ import annotations

import itertools
import json

import pytest

from benchmarks.http_load import BATCH, FEATURES, batches, bodies
from benchmarks.server import RATIOS, ROWS, compared

pytestmark = pytest.mark.contract("O6")


def test_every_body_asks_for_a_user_of_its_own():
    asked = [json.loads(each) for each in itertools.islice(bodies("x"), 300)]
    assert len({each["user_id"] for each in asked}) == 300
    assert {len(each["features"]) for each in asked} == {FEATURES}


def test_a_batch_is_of_32_users_who_were_not_asked_for_before():
    first, second = (json.loads(each)["requests"] for each in itertools.islice(batches("x"), 2))
    assert len(first) == len(second) == BATCH
    assert len({each["user_id"] for each in first + second}) == 2 * BATCH


def test_servers_are_compared_in_rows_that_both_ran():
    figures = {"lane": {"hit 64": 300.0, "miss 64": 10.0}, "fastapi": {"hit 64": 20.0}}
    assert compared(figures) == {"lane hit, x fastapi, 64": 15.0}


def test_every_ratio_is_of_a_row_that_is_run_with_these_servers():
    rows = {row.name: row.servers for row in ROWS}
    for ratio in RATIOS:
        assert {ratio.server, *ratio.to} <= set(rows[ratio.row]), ratio.name
