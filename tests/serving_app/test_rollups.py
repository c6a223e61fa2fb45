"""Sums by minute, hour and day in the database."""

import functools
import math

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, IntegrityError, OperationalError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from plugins import RecommendationRequest
from serving_app import rollup_writer, rollups, wiring
from serving_app.core.http_counts import HttpCounts
from serving_app.core.request_counts import RequestCounts
from serving_app.core.rollups import STEPS, Series
from serving_app.core.statistics import Statistics
from serving_app.registration import promote, register
from serving_app.rollup_conf import RollupSettings, rollup_settings
from serving_app.rollup_models import EngineMark, Rollup, RollupSeries
from serving_app.rollup_writer import RollupWriter, add
from tests.conftest import linear_draft
from tests.fakes import FakeClock
from tests.serving_app.core.test_rollups import count

pytestmark = [pytest.mark.contract("O4"), pytest.mark.django_db]

DAY = 1_700_006_400  # the start of one, in UTC
END = DAY + 3 * 86400
ANSWERS, TOLD = Series("answers", "m", level="l1"), Series("told")


class Process:
    """A process that counts requests and rolls them up."""

    def __init__(self, clock, **settings):
        self.counts, self.http, self.live = RequestCounts(), HttpCounts(), {"m": True}
        self.levels = {"l1": {"hits": 0, "misses": 0}}
        self.writer = RollupWriter(RollupSettings(**settings), clock=clock)

    def asked(self, times=1, how="l1", segment="all", seconds=0.01):
        for _ in range(times):
            count(self.counts, "m", segment, how, seconds)

    def tell(self, **more):
        statistics = Statistics(models=self.counts.stats())
        self.writer.tell(statistics, self.levels, self.http.counts(), live=self.live, **more)


def read(metric, since, until, step="minute", **labels):
    return [
        (point.at - DAY, None if point.missing else point.value)
        for point in rollups.series(metric, DAY + since, DAY + until, step=step, **labels)
    ]


def test_processes_add_up_in_minutes_hours_and_days():
    clock = FakeClock(DAY + 3600 + 0.5)
    one, other = Process(clock), Process(clock)
    for _ in range(90):
        clock.advance(2)
        one.asked(3)
        other.asked(1, how="model", segment="new", seconds=0.2)
        one.tell()
        other.tell()
    assert read("requests", 3600, 3600 + 180) == [(3600, 120.0), (3660, 120.0), (3720, 120.0)]
    assert read("hit_rate", 3600, 3660) == [(3600, 0.75)]
    assert read("hit_rate", 3600, 3660, segment="new") == [(3600, 0.0)]
    assert read("processes", 3600, 3660) == [(3600, 2.0)]
    for step, at in (("hour", 3600), ("day", 0)):
        assert read("requests", 3600, 3780, step) == [(at, 360.0)]
        assert read("p99", 3600, 3780, step) == [(at, pytest.approx(0.2, rel=0.13))]
    values = rollups.values(("requests", "misses", "processes", "live"), DAY + 3600, DAY + 3780)
    assert values == {"requests": 360.0, "misses": 90.0, "processes": 2.0, "live": 1.0}


def test_a_minute_in_which_nobody_told_is_missing_and_one_without_requests_is_zero():
    clock = FakeClock(DAY + 1.0)
    process = Process(clock)
    for seconds in (2, 50, 12, 10, 200, 30, 30):  # a standstill of 200 seconds
        clock.advance(seconds)
        process.tell()
    process.tell(at_once=True)
    found = read("requests", 0, 360)
    assert [value for _, value in found] == [0.0, 0.0, None, None, 0.0, 0.0]
    assert read("hit_rate", 0, 60) == [(0, None)], "there is none: nobody asked"
    assert not rollups.series("hit_rate", DAY, DAY + 60, step="minute")[0].missing
    assert rollups.values(["requests", "hit_rate"], DAY + 120, DAY + 240) == {
        "requests": None,
        "hit_rate": None,
    }


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3 * 86400 - 1),
            st.sampled_from(["m", "n"]),
            st.sampled_from(["l1", "miss"]),
            st.integers(1, 1000),
        ),
        max_size=30,
    )
)
def test_sums_over_buckets_equal_the_totals(db, gains):
    Rollup.objects.all().delete()
    for at, model, level, n in gains:
        add({DAY + at: {Series("lookups", model, "all", level): n, TOLD: 1}})
    for step, seconds in STEPS.items():
        for model in (None, "m", "n"):
            for level in (None, "l1", "miss"):
                sums = [
                    point.value or 0
                    for point in rollups.series(
                        "lookups", DAY, END, step=step, model=model, level=level
                    )
                ]
                assert len(sums) == (END - DAY) // seconds
                assert sum(sums) == sum(
                    n for _, m, at, n in gains if model in {None, m} and level in {None, at}
                )
    rows = rollups.totals(DAY, END, by=("model",))
    assert {row.labels["model"]: row.values["hits"] for row in rows} == {
        model: sum(n for _, m, at, n in gains if m == model and at == "l1")
        for model in {m for _, m, _, _ in gains}
    }


def test_what_an_engine_counted_is_added_once_whoever_tells():
    batches, rows = Series("batches", "m"), Series("rows", "m")
    older, newer = {batches: 2, rows: 8}, {batches: 5, rows: 30}
    for counts in (older, newer, older, newer):
        add({DAY: {TOLD: 1}}, {"host:1/x-1": counts}, at=DAY)
    assert read("batches", 0, 60) == [(0, 5.0)]
    assert read("batch_size", 0, 60) == [(0, 6.0)]
    assert EngineMark.objects.count() == 1


def fail(error, *_, **__):
    raise error


def test_a_database_that_is_away_gets_it_later(monkeypatch):
    clock = FakeClock(DAY + 1.0)
    process = Process(clock)
    with monkeypatch.context() as patched:
        patched.setattr(rollup_writer, "add", functools.partial(fail, OperationalError()))
        for _ in range(200):
            clock.advance(60)
            process.asked()
            process.tell()
        assert len(process.writer._pending) <= 120, "memory is bounded"
    assert not Rollup.objects.exists()
    clock.advance(60)
    process.tell()
    assert sum(value for _, value in read("requests", 0, 7200 * 2) if value) == 200
    RollupSeries.objects.all().delete()  # as a flush of the database does
    process.asked()
    with monkeypatch.context() as patched:
        patched.setattr(rollup_writer, "add", functools.partial(fail, IntegrityError()))
        process.tell(at_once=True)
    process.tell(at_once=True)
    assert sum(value for _, value in read("requests", 0, 7200 * 2) if value) == 1


def test_what_no_database_would_take_is_lost_and_stops_nothing(monkeypatch):
    process = Process(FakeClock(DAY))
    process.asked()
    with monkeypatch.context() as patched:
        patched.setattr(rollup_writer, "add", functools.partial(fail, DataError("too long")))
        process.tell(at_once=True)
    process.asked(2)
    process.tell(at_once=True)
    assert read("requests", 0, 60) == [(0, 2.0)]


def test_levels_and_models_that_are_away_show():
    clock = FakeClock(DAY)
    process = Process(clock)
    process.levels["l2"] = {"away": True}
    for _ in range(15):
        clock.advance(2)
        process.tell()
    process.levels["l2"] = {"away": False, "state": "closed"}
    process.live["m"] = False
    for _ in range(15):
        clock.advance(2)
        process.tell()
    assert read("level_up", 0, 60, level="l2") == [(0, 0.5)]
    assert read("level_up", 0, 60, level="l1") == [(0, 1.0)]
    assert read("live", 0, 60, model="m") == [(0, 0.5)]


def test_what_is_kept_is_bounded():
    settings = RollupSettings(minute_hours=1, hour_days=1, day_days=2)
    for at in range(0, 4 * 86400, 1800):
        add({DAY + at: {ANSWERS: 1, TOLD: 1}})
    now = DAY + 4 * 86400
    rollup_writer.prune(settings, now)
    oldest = {s: Rollup.objects.filter(step=s).order_by("at").first().at for s in STEPS.values()}
    assert oldest == {60: now - 3600, 3600: now - 86400, 86400: now - 2 * 86400}
    rollup_writer.prune(RollupSettings(rows=10, minute_hours=1, hour_days=1, day_days=2), now)
    assert Rollup.objects.count() <= 10
    assert Rollup.objects.filter(step=86400).count() == 4, "the longest view goes last"


def test_the_number_of_series_is_bounded():
    gain = {Series("answers", f"m{n}", level="l1"): 1 for n in range(20)}
    assert not add({DAY: gain}, most=15)
    assert RollupSeries.objects.count() == 15
    assert sum(value for _, value in read("answers", 0, 60) if value) == 0, "nobody told"
    Rollup.objects.all().delete()
    rollup_writer.prune(RollupSettings(series=15), DAY)
    assert not RollupSeries.objects.exists(), "what has no sums makes room"


def test_totals_are_told_apart_by_what_is_asked_for():
    for hour, segment, level, n in [
        (1, "new", "l1", 3),
        (1, "new", "miss", 1),
        (1, "regular", "l1", 9),
        (2, "regular", "miss", 7),
    ]:
        lookups = Series("lookups", "m", segment, level)
        add({DAY + hour * 3600: {lookups: n, TOLD: 1, Series("answers", "m", level=level): n}})
    until = DAY + 86400

    def rows(*by, **more):
        found = rollups.totals(DAY, until, by=by, now=until, **more)
        return {tuple(row.labels.values()): row.values for row in found}

    assert rows("segment")["new",]["hit_rate"] == 0.75
    assert "requests" not in rows("segment")["new",], "requests have no segment"
    assert rows()[()]["requests"] == 20
    by_hour = rows("segment", "hour")
    assert {key: row["misses"] for key, row in by_hour.items()} == {
        ("new", 1): 1,
        ("regular", 1): 0,
        ("regular", 2): 7,
    }
    tokyo = rows("hour", zone=rollups.zone_of("Asia/Tokyo"))
    assert {key: row["misses"] for key, row in tokyo.items()} == {(10,): 1, (11,): 7}
    assert rows("level")["l1",]["hit_rate"] == 0.6, "its share of all"
    assert {key: row["hits"] for key, row in rows(segment="new").items()} == {(): 3}
    assert rows("day").keys() == {("2023-11-15",)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metric": "nope"}, "no metric"),
        ({"step": "week"}, "no step"),
        ({"until": 0}, "before it ends"),
        ({"until": math.inf}, "before it ends"),
        ({"since": 0, "step": "minute"}, "points"),
        ({"metric": "batches", "segment": "new"}, "by model"),
    ],
)
def test_what_cannot_be_asked_is_refused(given, said):
    asked = {"metric": "hits", "since": DAY, "until": DAY + 60, "step": "minute", **given}
    with pytest.raises(ValueError, match=said):
        rollups.series(**asked)


def test_steps_suit_the_period():
    now = DAY + 100 * 86400.0
    assert rollups.step_for(now - 3600, now, now=now) == "minute"
    assert rollups.step_for(now - 3 * 86400, now, now=now) == "hour"
    assert rollups.step_for(now - 30 * 86400, now, now=now) == "day"
    assert rollups.step_for(now - 40 * 3600, now - 39 * 3600, now=now) == "hour"
    with pytest.raises(ValueError, match="HOUR_DAYS"):
        rollups.totals(0, DAY, by=("hour",))
    with pytest.raises(ValueError, match="tell apart"):
        rollups.totals(DAY, DAY + 1, by=("user",))
    with pytest.raises(ValueError, match="time zone"):
        rollups.zone_of("../etc")


def test_settings_are_checked(settings):
    settings.RECSERVE = {**settings.RECSERVE, "ROLLUPS": {"MINUTE_HOURS": 2, "RECORD": False}}
    assert rollup_settings() == RollupSettings(minute_hours=2.0, record=False)
    for wrong in ({"MINUTES": 1}, {"ROWS": 0}, {"RECORD": 1}, {"DAY_DAYS": 1e12}):
        settings.RECSERVE = {**settings.RECSERVE, "ROLLUPS": wrong}
        with pytest.raises(ImproperlyConfigured):
            rollup_settings()


def test_a_serving_process_rolls_up_what_it_was_asked(live_model, client_as):
    client = client_as("predict")
    question = {"user_id": "u1", "features": [1.0, 2.0, 3.0]}
    for _ in range(3):
        assert client.post("/api/v1/predict", question, format="json").status_code == 200
    wiring.get_recommender().recommend(RecommendationRequest(user_id="u2", features=[0.0] * 3))
    wiring.roll_up(at_once=True)
    first = Rollup.objects.order_by("at").first().at
    rows = rollups.totals(first, first + 86400)
    assert rows[0].values["requests"] == 4
    assert (rows[0].values["hits"], rows[0].values["misses"]) == (2, 2)
    since = Rollup.objects.filter(step=60).order_by("at").first().at
    values = rollups.values(["rows", "live"], since, since + 180)
    assert values == {"rows": 2, "live": 1}, "while it is starting, nobody expects it to be live"


def test_a_process_that_starts_is_not_taken_for_one_whose_models_are_away(fresh, store, db):
    promote(register("default", linear_draft(store)))
    serving, clock = wiring.get_serving(), FakeClock(DAY)
    serving.rollups.__init__(RollupSettings(), clock=clock)
    clock.advance(20)
    wiring.roll_up(at_once=True)
    assert read("live", 0, 60) == [(0, None)], "nobody expects it yet"
    serving.reconciler.reconcile()
    clock.advance(20)
    wiring.roll_up(at_once=True)
    assert read("live", 0, 60) == [(0, 1.0)]


def test_nothing_is_rolled_up_if_it_is_not_wanted():
    process = Process(FakeClock(DAY), record=False)
    process.asked()
    process.tell(at_once=True)
    assert not Rollup.objects.exists()
