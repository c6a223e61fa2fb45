"""Strategies as operators give them: by name and options."""

import pytest

from plugins import InvalidOptions, UnknownPlugin
from plugins.warmup.popular import Popular
from serving_app.warmup_strategies import make_strategy

pytestmark = pytest.mark.contract("W1")


def test_a_strategy_is_made_of_its_name_and_options():
    assert isinstance(make_strategy("popular"), Popular)
    assert make_strategy("popular", {"days": 7, "minimum": 3})._days == 7


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("populer", {}, UnknownPlugin, "Did you mean 'popular'"),
        ("popular", {"day": 1.0}, InvalidOptions, "Did you mean 'days'"),
        ("popular", {"days": "a week"}, InvalidOptions, "'days' .* must be float"),
        ("popular", {"days": -1.0}, InvalidOptions, "'days' must be more than 0"),
        ("popular", {"path": "x"}, InvalidOptions, "'path' is no option"),
        ("popular", ["days"], InvalidOptions, "must be a mapping"),
    ],
)
def test_what_is_wrong_is_named(name, options, error, message):
    with pytest.raises(error, match=message):
        make_strategy(name, options)
