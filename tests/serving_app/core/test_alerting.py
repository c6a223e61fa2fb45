"""The state machine of alerts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_app.core.alert_url import check_url
from serving_app.core.alerting import Condition, Episode, step, walk

pytestmark = pytest.mark.contract("O3")

HIGH = Condition(above=True, threshold=10.0, clear=5.0, hold=20.0, calm=30.0)


def fired(condition, values, every=10.0):
    episodes = walk(condition, [(every * n, value) for n, value in enumerate(values)])
    return [(episode.fired, episode.resolved) for episode in episodes]


def test_it_fires_after_it_was_bad_for_long_enough_and_ends_after_it_was_good_for_long_enough():
    assert fired(HIGH, [0, 11, 12, 13, 13, 4, 4, 4, 4, 0]) == [(30.0, 80.0)]
    assert fired(HIGH, [0, 11, 12, 0, 11, 12, 0]) == [], "a short one is none"
    assert fired(Condition(threshold=10.0), [11, 9, 11]) == [(0.0, 10.0), (20.0, None)]


def test_a_value_that_swings_about_one_limit_does_not_flap():
    swings = [11, 11, 11] + [6, 11, 9, 12] * 20
    assert fired(HIGH, swings) == [(20.0, None)]
    assert fired(HIGH, [*swings, 4, 6, 4, 4, 4, 4]) == [(20.0, 10.0 * (len(swings) + 5))]


def test_it_does_not_fire_while_nobody_knows_and_ends_when_there_is_nothing_to_look_at():
    assert fired(HIGH, [11, None, None, None]) == [], "nobody saw that it still is"
    assert fired(HIGH, [11, None, 11]) == [(20.0, None)]
    assert fired(HIGH, [11, 11, 11, 4, None, None, None, 4]) == [(20.0, 60.0)]
    assert fired(HIGH, [11, 11, 11, None, None, 11]) == [(20.0, None)], "a short gap is no end"


def test_below_and_absence():
    low = Condition(above=False, threshold=0.5, clear=0.9)
    assert fired(low, [0.6, 0.4, 0.7, 0.9]) == [(10.0, 30.0)]
    assert fired(Condition("absence"), [3, None, 0.0, 2]) == [(10.0, 30.0)]


def test_a_new_episode_begins_after_one_was_resolved():
    over = Episode("resolved", 0.0, fired=1.0, resolved=2.0)
    assert step(HIGH, over, 3.0, 10.0) is None
    assert step(HIGH, over, 11.0, 10.0) == Episode("pending", 10.0, value=11.0)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(0, 20)), max_size=60),
    st.floats(0, 100),
    st.floats(0, 100),
)
def test_episodes_are_in_order_and_as_long_as_they_must_be(values, hold, calm):
    condition = Condition(threshold=10.0, clear=5.0, hold=hold, calm=calm)
    episodes = walk(condition, [(10.0 * n, value) for n, value in enumerate(values)])
    last = -1.0
    for episode in episodes:
        assert episode.started > last
        assert episode.fired - episode.started >= hold
        assert values[int(episode.fired / 10)] > 10, "it fires upon a bad value"
        if episode.resolved is None:
            assert episode is episodes[-1]
        else:
            assert episode.resolved - episode.calm_since >= calm
            assert (values[int(episode.resolved / 10)] or 0) <= 5
            last = episode.resolved


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x", "//x", "http://", "x", 3, "http://[", "gopher://x:1"]
)
def test_only_http_may_be_called(url):
    with pytest.raises(ValueError):  # noqa: PT011  (whichever)
        check_url(url)


def test_only_hosts_of_the_list_may_be_called():
    check_url("https://hooks.example.org/x")
    check_url("https://Hooks.example.org:8443/x", ["hooks.example.org"])
    with pytest.raises(ValueError, match="WEBHOOK_HOSTS"):
        check_url("https://hooks.example.org.evil.example/x", ["hooks.example.org"])
    with pytest.raises(ValueError, match="WEBHOOK_HOSTS"):
        check_url("https://hooks.example.org@evil.example/x", ["hooks.example.org"])
