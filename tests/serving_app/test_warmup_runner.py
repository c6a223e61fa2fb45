"""A run from its first question to its last: resumed, stopped, and with true counts."""

import threading

import pytest
from django.utils import timezone

from plugins import (
    InvalidInput,
    Priority,
    QueueFull,
    RecommendationRequest,
    Unavailable,
    WarmupCandidate,
)
from plugins.apps import get_registry
from serving_app import warmup_runner, wiring
from serving_app.warmup_batches import RunBatches
from serving_app.warmup_models import WarmupQuestion, WarmupRun
from serving_app.warmup_runs import claim, request_run, run_of, stop
from tests.servers import wait_for
from tests.serving_app.warmups import USERS, ask, make_live, make_schedule

pytestmark = [pytest.mark.contract("W2"), pytest.mark.django_db(transaction=True)]

State = WarmupRun.State
FAST = {"rate": 100_000.0}


@pytest.fixture
def serving(fresh, store, db, settings):
    settings.RECSERVE = {**settings.RECSERVE, "WARM_UP": {"SHARE": 1.0, "SCHEDULER": False}}
    make_live(store)
    return wiring.get_serving()


def run_now(schedule, serving):
    run = request_run(run_of(schedule))
    assert serving.warm_up.tick()
    run.refresh_from_db()
    return run


def counts(run):
    return run.candidates, run.warmed, run.fresh, run.refused, run.errors


def question(user, **more):
    return RecommendationRequest(user, **more)


@pytest.mark.contract("W3")
@pytest.mark.contract("W4")
def test_a_run_warms_what_is_asked_for_and_not_what_is_fresh(serving):
    ask(*USERS[:20], context={"page": "home"})
    ask("stranger")
    serving.recommender.recommend(question(USERS[0], context={"page": "home"}))
    run = run_now(make_schedule(**FAST), serving)
    assert (run.state, run.message) == (State.DONE, "")
    assert counts(run) == (21, 19, 1, 0, 1)
    assert run.done == run.candidates
    assert run.progress == 1.0
    assert run.model_seconds > 0
    (odd,) = run.questions.filter(state="error")
    assert (odd.user, "does not know user" in odd.problem) == ("stranger", True)
    for user in USERS[:20]:
        assert serving.recommender.recommend(question(user, context={"page": "home"})).cached
    schedule = run.schedule
    assert (schedule.warmed, schedule.model_seconds) == (19, run.model_seconds)
    again = run_now(schedule, serving)
    assert counts(again) == (21, 0, 20, 0, 1)


def test_what_is_about_to_expire_is_renewed_for_a_strategy_that_wants_it(serving):
    """TTL is 300 s: all are fresh, and stale in ten minutes."""
    ask(*USERS[:5])
    assert counts(run_now(make_schedule(**FAST), serving)) == (5, 5, 0, 0, 0)
    soon = make_schedule("soon", strategies=[("expiring", {"ahead_minutes": 10.0})], **FAST)
    assert counts(run_now(soon, serving)) == (5, 5, 0, 0, 0)
    later = make_schedule("later", strategies=[("expiring", {"ahead_minutes": 1.0})], **FAST)
    assert counts(run_now(later, serving)) == (0, 0, 0, 0, 0)


def test_the_budget_is_kept_and_the_best_go_first(serving):
    ask(*USERS[:20])
    run = run_now(make_schedule(budget=5, **FAST), serving)
    assert counts(run) == (5, 5, 0, 0, 0)
    assert list(run.questions.values_list("user", flat=True)) == list(USERS[:5])


def test_without_activity_a_run_says_so(serving):
    run = run_now(make_schedule(), serving)
    assert (run.state, counts(run)) == (State.DONE, (0, 0, 0, 0, 0))
    assert "Nothing to warm" in run.message


def test_a_model_that_went_away_fails_the_run(serving, monkeypatch):
    monkeypatch.setattr(warmup_runner, "_LOADING", 0.0)
    schedule = make_schedule()
    run = request_run(run_of(schedule))
    serving.live.route("default", None)
    serving.warm_up.tick()
    run.refresh_from_db()
    assert run.state == State.FAILED
    assert "'default' is not live" in run.message


def test_a_strategy_that_fails_fails_the_run_and_nothing_is_half_done(serving, monkeypatch):
    class Broken:
        def candidates(self, activity, limit):
            yield WarmupCandidate(question("u1"), 1.0, "why")
            raise RuntimeError("no more")

    monkeypatch.setattr(warmup_runner, "make_strategy", lambda name, options: Broken())
    run = run_now(make_schedule(), serving)
    assert run.state == State.FAILED
    assert "'popular' failed: RuntimeError: no more" in run.message
    counted = get_registry().failures.by_plugin()["builtin_warmup"]["warm-up strategy popular"]
    assert (counted.failures, counted.error, counted.off) == (1, "RuntimeError: no more", 0)
    assert not run.questions.exists()


class Steered:
    """The recommender, with a warm that a test steers."""

    def __init__(self, real, before):
        self.real = real
        self.before = before
        self.warmed = []

    def warm(self, request, *, renew_before=0.0):
        self.before(self, request)
        self.warmed.append(request)
        return self.real.warm(request, renew_before=renew_before)

    def known(self, request):
        return self.real.known(request)


def steer(serving, before):
    steered = Steered(serving.recommender, before)
    serving.warm_up.runner._recommender = steered
    return steered


def test_what_the_model_cannot_take_now_is_tried_again(serving):
    ask(*USERS[:6])
    seen = []

    def refuse(steered, request):
        seen.append(request.user_id)
        if request.user_id == USERS[0] or (
            request.user_id == USERS[1] and seen.count(USERS[1]) < 2
        ):
            raise QueueFull("full", retry_after=0.001)

    steer(serving, refuse)
    run = run_now(make_schedule(**FAST, batch_size=2), serving)
    assert (run.state, counts(run)) == (State.DONE, (6, 5, 0, 1, 0))
    assert seen.count(USERS[0]) == 3
    assert run.questions.get(state="refused").problem == "full"


def test_a_model_that_takes_nothing_fails_the_run(serving):
    ask(*USERS)

    def refuse(steered, request):
        raise QueueFull("full", retry_after=0.001)

    steer(serving, refuse)
    run = run_now(make_schedule(**FAST), serving)
    assert run.state == State.FAILED
    assert "takes nothing: full" in run.message
    assert run.refused + run.questions.filter(state="waiting").count() == run.candidates


def test_errors_of_single_users_are_counted_and_survived(serving):
    ask(*USERS[:9])

    def refuse(steered, request):
        if request.user_id in USERS[:3]:
            raise InvalidInput("odd", field="user_id")
        if request.user_id == USERS[3]:
            raise ZeroDivisionError("a plugin's")

    steer(serving, refuse)
    run = run_now(make_schedule(**FAST, batch_size=4), serving)
    assert (run.state, counts(run)) == (State.DONE, (9, 5, 0, 0, 4))


@pytest.mark.contract("W3")
def test_a_run_stops_within_its_batch_and_counts_what_it_did(serving):
    ask(*USERS)

    def stop_in_the_middle(steered, request):
        if len(steered.warmed) == 10:
            run = WarmupRun.objects.get()
            assert stop(run)
            wait_for(lambda: any(w.stop.is_set() for w in watches), what="the runner hears")

    watches = []
    made = warmup_runner.Watch

    def watch(*given):
        watches.append(made(*given))
        return watches[-1]

    warmup_runner.Watch = watch
    try:
        steered = steer(serving, stop_in_the_middle)
        run = run_now(make_schedule(**FAST, batch_size=8), serving)
    finally:
        warmup_runner.Watch = made
    assert (run.state, run.message) == (State.STOPPED, "Stopped.")
    assert run.warmed <= len(steered.warmed) == 11
    waiting = run.questions.filter(state="waiting").count()
    assert run.warmed + waiting == run.candidates == len(USERS)


@pytest.mark.contract("W3")
@pytest.mark.parametrize("told", ["stop", "shut down"])
def test_choosing_stops_too_and_nothing_is_half_done(serving, monkeypatch, told):
    """A strategy that reads without an end, page by page, as of a large activity."""

    class Reading:
        def candidates(self, activity, limit):
            if told == "stop":
                assert stop(WarmupRun.objects.get())
            else:
                serving.warm_up._stop.set()
            while True:
                activity.rest(0.01)
                yield from ()

    monkeypatch.setattr(warmup_runner, "make_strategy", lambda name, options: Reading())
    run = run_now(make_schedule(), serving)
    assert (run.state, run.planned) == ("stopped" if told == "stop" else "waiting", False)
    assert not run.questions.exists()


def test_a_dry_run_that_takes_long_says_so(serving, monkeypatch):
    class Reading:
        def candidates(self, activity, limit):
            while True:
                activity.rest(0.0)
                yield from ()

    monkeypatch.setattr(warmup_runner, "make_strategy", lambda name, options: Reading())
    monkeypatch.setattr(warmup_runner, "_PATIENCE", 0.05)
    with pytest.raises(Unavailable, match=r"longer than 0\.05 s"):
        list(serving.warm_up.runner.dry_run(run_of(make_schedule())))


@pytest.mark.contract("W3")
def test_a_process_that_shuts_down_leaves_the_rest_to_another(serving):
    ask(*USERS)
    scheduler = serving.warm_up

    def shut_down(steered, request):
        if len(steered.warmed) == 16:
            scheduler._stop.set()

    steer(serving, shut_down)
    run = run_now(make_schedule(**FAST, batch_size=8), serving)
    assert (run.state, run.runner, run.planned) == (State.WAITING, "", True)
    before = run.warmed
    assert 16 <= before < len(USERS)
    scheduler._stop.clear()
    scheduler.runner._recommender = serving.recommender
    ask("u59", times=900)  # a run that goes on does not choose anew
    assert scheduler.tick()
    run.refresh_from_db()
    assert (run.state, counts(run)) == (State.DONE, (60, 60, 0, 0, 0))
    assert run.takeovers == 0


@pytest.mark.contract("W3")
def test_who_takes_over_goes_on_where_the_dead_one_was_and_counts_its_last_batch(serving, settings):
    """The dead one had warmed a batch that it could not write down any more."""
    settings.RECSERVE = {
        **settings.RECSERVE,
        "WARM_UP": {"SHARE": 1.0, "DEAD_SECONDS": 0.001, "SCHEDULER": False},
    }
    ask(*USERS[:24])
    run = request_run(run_of(make_schedule(**FAST, batch_size=8)))
    dead = claim(timezone.now())
    runner = serving.warm_up.runner

    class Killed(BaseException):
        pass

    def die(steered, request):
        if len(steered.warmed) == 16:
            raise Killed

    steered = steer(serving, die)
    record = RunBatches._record

    def record_once(self, batch, outcomes):
        if len(steered.warmed) == 16:
            raise Killed
        record(self, batch, outcomes)

    RunBatches._record = record_once
    try:
        with pytest.raises(Killed):
            runner.run(dead, threading.Event())
    finally:
        RunBatches._record = record
    run.refresh_from_db()
    assert (run.state, counts(run)) == (State.RUNNING, (24, 8, 0, 0, 0))
    assert len(steered.warmed) == 16
    runner._recommender = serving.recommender
    wait_for(serving.warm_up.tick, what="it counts as dead")
    run.refresh_from_db()
    assert (run.state, run.takeovers) == (State.DONE, 1)
    assert counts(run) == (24, 24, 0, 0, 0)


@pytest.mark.contract("W3")
def test_a_runner_that_was_taken_for_dead_ends_quietly(serving):
    ask(*USERS[:20])
    stolen = []

    def steal(steered, request):
        if len(steered.warmed) == 9:
            WarmupRun.objects.update(runner="another/1")
            stolen.append(True)

    steer(serving, steal)
    run = run_now(make_schedule(**FAST, batch_size=4), serving)
    assert stolen
    assert (run.state, run.runner) == (State.RUNNING, "another/1")
    assert run.warmed == 8, "the batch under way is not counted"
    assert WarmupQuestion.objects.filter(state="warmed").count() == 8


def test_a_run_that_takes_too_long_is_stopped(serving, settings):
    settings.RECSERVE = {
        **settings.RECSERVE,
        "WARM_UP": {"SHARE": 1.0, "RUN_SECONDS": 1e-6, "SCHEDULER": False},
    }
    ask(*USERS[:20])
    run = run_now(make_schedule(**FAST), serving)
    assert run.state == State.STOPPED
    assert "RUN_SECONDS" in run.message


@pytest.mark.contract("W4")
def test_questions_of_all_kinds_are_asked_as_they_would_be(serving, monkeypatch):
    features = {"age": 1.5, "visits": 2, "spend": -0.25}
    given = [
        question("u1", context={"b": [1, {"c": None}], "a": "é\u0000"}),
        question("u1", context={"n": 1}),
        question("u1", context={"n": "1"}),
        question("guest", features=features),
        question("u2", k=150),
        question("u3", k=5, exclude=frozenset({"i1", "i2"})),
    ]

    class Listed:
        def candidates(self, activity, limit):
            return [WarmupCandidate(each, 1.0, "listed") for each in given]

    monkeypatch.setattr(warmup_runner, "make_strategy", lambda name, options: Listed())
    run = run_now(make_schedule(**FAST), serving)
    assert counts(run) == (6, 6, 0, 0, 0)
    for each in given:
        assert serving.recommender.recommend(each).cached
    assert {q.state for q in run.questions.all()} == {"warmed"}


def test_warm_ups_are_no_requests(serving):
    ask(*USERS[:5])
    run_now(make_schedule(**FAST), serving)
    assert serving.recommender.stats() == {}
    version = serving.live.live()["default"]
    assert version.stats().submitted == 5
    assert version.outcomes.counts().requests == 0
    assert Priority.WARM_UP > Priority.LIVE
