"""favourite does what recserve expects of a drift rule."""

from recserve_example.favourite import Favourite

from plugins.conformance import check_drift_rule


def test_conformance():
    check_drift_rule(Favourite)
