"""Tests that share a server, or a Redis, run one after another, in one process."""

import os

import pytest

pytestmark = pytest.mark.xdist_group("groups")


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="nothing runs in parallel")
def test_the_group_of_a_test_is_known_where_tests_are_dealt_out(request):
    assert request.node.nodeid.endswith("@groups")
