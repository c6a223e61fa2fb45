"""random does what recserve expects of an eviction policy."""

from recserve_example.random_policy import RandomPolicy

from plugins.conformance import check_eviction_policy


def test_conformance():
    check_eviction_policy(RandomPolicy)
