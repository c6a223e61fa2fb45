"""Hits earned: what was warmed, asked for in time, and answered out of the cache. Once each."""

import time
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.utils import timezone

from plugins import RecommendationRequest
from plugins.apps import reset_registry
from serving_app import warmup_earnings
from serving_app.activity import ActivityLog
from serving_app.activity_conf import ActivitySettings
from serving_app.core.activity import Asked, Counted, context_text, hour_of
from serving_app.core.warmup_counts import WARM_UP
from serving_app.core.warmup_plan import question_digest
from serving_app.warmup_earnings import count_hits
from serving_app.warmup_models import WarmupQuestion, WarmupRun
from serving_app.warmup_runs import run_of
from tests.serving_app.warmups import make_row, make_schedule

pytestmark = [pytest.mark.contract("W2"), pytest.mark.django_db]


@pytest.fixture
def run(db):
    reset_registry()
    make_row()
    run = run_of(make_schedule())
    run.state = "done"
    run.save()
    return run


def warmed(run, user, *, context=None, ago=60.0, fresh_for=60.0, **more):
    """A question that was warmed ``ago`` seconds ago, and is fresh for as many from now on."""
    now = timezone.now()
    request = RecommendationRequest(user, context=context or {})
    return WarmupQuestion.objects.create(
        run=run,
        position=run.questions.count(),
        digest=question_digest(request),
        user=str(user),
        user_is_number=isinstance(user, int),
        context=context_text(context or {}),
        k=10,
        score=1.0,
        warmed_at=now - timedelta(seconds=ago),
        fresh_until=now + timedelta(seconds=fresh_for),
        **{"state": "warmed", "model_seconds": 0.25, **more},
    )


def asked(user, *, context=None, hit=0.0, own=False, kind="request", alias="", model="default"):
    """What activity has of a user that asked, the last time with a hit so many seconds ago."""
    at = time.time() - hit
    text = context_text(context or {})
    return {Asked(hour_of(at), kind, model, alias, user, text, own): Counted(3, at, at)}


def earned(run):
    run.refresh_from_db()
    run.schedule.refresh_from_db()
    assert run.schedule.earned == run.earned
    assert run.schedule.seconds_saved == run.seconds_saved
    return run.earned, run.seconds_saved


def test_the_first_hit_is_earned_and_no_other(run):
    warmed(run, "ann", context={"a": 1, "b": [2]})
    warmed(run, "bob")
    assert count_hits(asked("ann", context={"b": [2], "a": 1})) == 1
    assert earned(run) == (1, 0.25)
    assert count_hits(asked("ann", context={"b": [2], "a": 1}) | asked("bob")) == 1
    assert earned(run) == (2, 0.5)
    assert run.questions.filter(asked=None).count() == 0
    assert run.hit_share is None, "nothing of what this test made was counted as warmed"


@pytest.mark.parametrize(
    "what",
    [
        asked("ann", context={"page": "other"}),
        asked("ann", hit=120),
        asked("ann", own=True),
        asked("ann", kind="purchase"),
        asked("ann", alias="canary"),
        asked("ann", model="other"),
        asked(7),
        {next(iter(asked("ann"))): Counted(3, time.time(), 0.0)},
    ],
    ids=["context", "before", "features", "event", "alias", "model", "number", "miss"],
)
def test_what_is_no_hit_of_the_warmed_answer_earns_nothing(run, what):
    warmed(run, "ann")
    warmed(run, "7")
    assert count_hits(what) == 0
    assert earned(run) == (0, 0.0)


def test_what_had_expired_or_was_not_warmed_earns_nothing(run):
    warmed(run, "ann", fresh_for=-5.0)
    warmed(run, "bob", state="fresh")
    assert count_hits(asked("ann") | asked("bob")) == 0


def test_the_run_that_warmed_it_last_earns_it(run):
    later = run_of(make_schedule("later"))
    later.state = "done"
    later.save()
    warmed(run, "ann", ago=60)
    warmed(later, "ann", ago=30)
    assert count_hits(asked("ann", hit=45) | asked("other")) == 1
    assert (earned(run)[0], earned(later)[0]) == (1, 0)
    warmed(run, "bob", ago=60)
    warmed(later, "bob", ago=30)
    assert count_hits(asked("bob")) == 1
    assert (earned(run)[0], earned(later)[0]) == (1, 1)


def test_two_processes_that_saw_the_same_question_count_it_once(run, monkeypatch):
    warmed(run, "ann")
    credit = warmup_earnings._credit

    def while_another_is_quicker(found):
        monkeypatch.setattr(warmup_earnings, "_credit", credit)
        assert count_hits(asked("ann")) == 1
        return credit(found)

    monkeypatch.setattr(warmup_earnings, "_credit", while_another_is_quicker)
    assert count_hits(asked("ann")) == 0
    assert earned(run) == (1, 0.25)


def test_many_cost_few_queries_while_nothing_was_warmed(run, django_assert_num_queries):
    many = {}
    for n in range(1200):
        many |= asked(f"u{n}")
    with django_assert_num_queries(1):
        assert count_hits(many) == 0
    with django_assert_num_queries(0):
        assert count_hits({}) == 0
    for n in range(0, 1200, 300):
        warmed(run, f"u{n}")
    assert count_hits(many) == 4


def test_activity_tells_what_the_cache_answered(run, settings):
    """From a request to the count: only a fresh answer out of the cache is a hit."""
    log = ActivityLog(ActivitySettings(), written=count_hits)
    for user in ("ann", "bob"):
        warmed(run, user)
    log.asked(RecommendationRequest("ann"), True)
    log.asked(RecommendationRequest("ann"), False)
    log.asked(RecommendationRequest("bob"), False)
    before = WARM_UP.samples()["recserve_warmup_hits_earned_total"].get(("nightly",), 0)
    log.flush(at_once=True)
    assert earned(run) == (1, 0.25)
    after = WARM_UP.samples()["recserve_warmup_hits_earned_total"]["nightly",]
    assert after - before == 1


def test_a_database_that_fails_costs_a_count_and_no_activity(run, monkeypatch, caplog):
    def fail(found):
        raise OperationalError("locked")

    warmed(run, "ann")
    monkeypatch.setattr(warmup_earnings, "_credit", fail)
    assert count_hits(asked("ann")) == 0
    assert "could not be counted: locked" in caplog.text


def test_a_run_without_a_schedule_earns_too(run):
    adhoc = WarmupRun.objects.create(model="default", strategies=[], state="done", warmed=4)
    warmed(adhoc, "ann")
    assert count_hits(asked("ann")) == 1
    adhoc.refresh_from_db()
    assert (adhoc.earned, adhoc.seconds_saved, adhoc.hit_share) == (1, 0.25, 0.25)
