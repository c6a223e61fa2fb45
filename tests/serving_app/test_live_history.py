"""The last minutes: looked at once for all, in bounds, and with nothing made up."""

import threading

import pytest
from django.utils import timezone

from serving_app import live_history, process_statistics, wiring
from serving_app.live_history import HISTORY_SECONDS, LiveHistory
from serving_app.models import ProcessStatistics
from tests.fakes import FakeClock
from tests.serving_app.core.test_live_points import told

pytestmark = pytest.mark.contract("O2")


@pytest.fixture
def clock():
    return FakeClock(1000.0)


class Telling:
    """One process that is asked ten times a second."""

    def __init__(self, clock):
        self.clock = clock
        self.reads = 0

    def __call__(self):
        self.reads += 1
        return {"a": told(self.clock(), int(10 * (self.clock() - 1000)))}


def test_many_who_watch_cost_one_look(clock):
    read = Telling(clock)
    history = LiveHistory(read, clock=clock)
    threads = [threading.Thread(target=history.look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read.reads == 1
    clock.advance(1.0)
    assert not history.due()
    history.look()
    assert read.reads == 1
    clock.advance(1.0)
    assert history.due()
    history.look()
    assert read.reads == 2


def test_it_looks_less_often_while_nobody_watches(clock):
    read = Telling(clock)
    history = LiveHistory(read, clock=clock)
    for _ in range(20):
        history.look(watched=False)
        clock.advance(2.0)
    assert read.reads == 4
    assert [round(p.seconds) for p in history.since(0.0)] == [10, 10, 10]


def test_it_keeps_a_quarter_of_an_hour_and_returns_what_is_new(clock):
    history = LiveHistory(Telling(clock), clock=clock)
    for _ in range(600):
        history.look()
        clock.advance(2.0)
    points = history.since(0.0)
    assert points[0].at > clock() - HISTORY_SECONDS - 4
    assert len(points) <= HISTORY_SECONDS / 2
    assert sum(p.models["m"].requests for p in points) == 20 * len(points)
    assert history.since(points[-3].at) == points[-2:]
    assert history.since(points[-1].at) == ()


def test_a_clock_that_is_set_back_stops_nothing(clock):
    history = LiveHistory(Telling(clock), clock=clock)
    history.look()
    clock.advance(-500.0)
    assert history.due()


@pytest.mark.django_db
def test_it_reads_what_processes_told_in_one_query(live_model, django_assert_num_queries):
    serving = wiring.get_serving()
    own = process_statistics.own(serving.live, serving.recommender)
    process_statistics.tell("a:1", own)
    process_statistics.tell("a:2", own)
    ProcessStatistics.objects.create(
        process="of another release", seen=timezone.now(), serving={"models": 3}, cache={}
    )
    with django_assert_num_queries(1):
        found = live_history.told()
    assert found["a:1"].statistics == own
    assert set(found) - {"a:1", "a:2"} <= {wiring.process_name()}


@pytest.mark.django_db
def test_a_serving_process_looks_whoever_watches(live_model):
    assert not wiring.get_serving().history.due()
