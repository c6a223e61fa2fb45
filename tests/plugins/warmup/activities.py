"""Activity for tests of strategies."""

from hypothesis import strategies as st

from plugins import Asking
from plugins.conformance.warmup import GivenActivity

NOW = 1_700_008_200.0  # 2023-11-15 00:30 UTC, a Wednesday
HOUR = 3600.0
DAY = 24 * HOUR


def asking(user, *, ago=HOUR, count=1, context=None, alias="", minute=0.0):
    """An asking in the hour that began about ``ago`` seconds before now."""
    hour = (NOW - ago) // HOUR * HOUR
    return Asking(user, "default", alias, context or {}, hour, count, hour + 60 * minute)


def activity(*given, now=NOW, **kwargs):
    return GivenActivity(given, now=now, **kwargs)


def users(candidates):
    return [each.request.user_id for each in candidates]


contexts = st.sampled_from(
    [{}, {"page": "home"}, {"page": 1}, {"page": "1"}, {"deep": [{"a": None}]}]
)
askings = st.lists(
    st.builds(
        asking,
        st.sampled_from([1, "1", "ann", 7, "bob"]),
        ago=st.integers(0, 14 * 24).map(lambda hours: hours * HOUR),
        count=st.integers(1, 9),
        context=contexts,
        minute=st.integers(0, 59),
    ),
    max_size=60,
    unique_by=lambda each: (repr(each.user_id), repr(each.context), each.hour),
)
limits = st.integers(0, 12)
