"""``manage.py run_warmups``: what is due, what is named, and what cannot be."""

import json
import os
import signal
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from plugins import RecommendationRequest
from serving_app import wiring
from serving_app.core.recommender import Recommender
from serving_app.warmup_models import WarmupRun, WarmupSchedule
from serving_app.warmup_runs import claim, request_run, run_of
from tests.serving_app.warmups import USERS, ask, make_live, make_schedule

pytestmark = [pytest.mark.contract("W3"), pytest.mark.django_db(transaction=True)]


@pytest.fixture
def installed(fresh, store, db, settings, tmp_path):
    """A live model, a cache with an L2, and activity; nothing runs."""
    settings.RECSERVE = {
        **settings.RECSERVE,
        "CACHE": {"L2": {"BACKEND": "embedded", "PATH": str(tmp_path / "cache")}},
        "WARM_UP": {"SHARE": 1.0, "SCHEDULER": False},
    }
    make_live(store)
    wiring.stop()
    ask(*USERS[:10], context={"page": "home"})


def run(*arguments):
    out = StringIO()
    call_command("run_warmups", *arguments, stdout=out)
    return out.getvalue()


def test_a_named_schedule_runs_now_and_others_find_its_answers(installed):
    make_schedule(rate=100_000.0)
    told = json.loads(run("nightly", "--json"))
    assert (told["state"], told["warmed"], told["candidates"]) == ("done", 10, 10)
    wiring.get_serving().reconciler.reconcile()  # another process
    request = RecommendationRequest(USERS[0], context={"page": "home"})
    assert wiring.get_recommender().recommend(request).source == "l2"


def test_what_is_due_runs_and_what_is_not_does_not(installed):
    assert run() == "Nothing is due.\n"
    make_schedule(interval=3600.0, rate=100_000.0)
    assert run() == "Nothing is due.\n"
    WarmupSchedule.objects.update(next_due=timezone.now() - timedelta(hours=3))
    assert "nightly: done, 10 warmed" in run()
    assert run() == "Nothing is due.\n"


def test_a_dry_run_says_who_and_why_and_does_nothing(installed):
    make_schedule(budget=3)
    lines = run("nightly", "--dry-run").splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f'{USERS[0]}  {{"page": "home"}}')
    assert "popular: asked" in lines[0]
    row = json.loads(run("nightly", "--dry-run", "--json").splitlines()[0])
    assert (row["user_id"], row["context"], row["fresh"]) == (USERS[0], {"page": "home"}, False)
    assert not WarmupRun.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["weekly"], "no warm-up schedule 'weekly'. There are: nightly."),
        (["--dry-run"], "Name the schedules"),
        (["by-alias"], "'default@canary' has no live version"),
    ],
)
def test_what_cannot_be_is_said(installed, arguments, says):
    make_schedule()
    if "by-alias" in arguments:
        make_schedule("by-alias", alias="canary")
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert says in str(caught.value)
    assert not WarmupRun.objects.exists()


def test_a_schedule_that_runs_already_is_refused(installed):
    request_run(run_of(make_schedule()))
    assert claim(timezone.now())
    with pytest.raises(CommandError, match="is not over yet"):
        run("nightly")
    assert run() == "Nothing is due.\n", "what another process is about is not waited for"


def test_a_run_that_fails_fails_the_command(installed):
    make_schedule(strategies=[("popular", {"minimum": 10**6})])
    assert "Nothing to warm" in run("nightly")
    WarmupSchedule.objects.get().strategies.update(options={"days": -1})
    with pytest.raises(CommandError, match="'days'"):
        run("nightly")


def test_a_cache_that_nobody_shares_is_refused(installed, settings):
    make_schedule()
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": {}}
    with pytest.raises(CommandError, match="only L1"):
        run("nightly")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_forever_is_until_a_signal_which_leaves_a_run_to_others(installed, monkeypatch, number):
    schedule = make_schedule(interval=3600.0, rate=100_000.0, batch_size=4)
    WarmupSchedule.objects.update(next_due=timezone.now())
    warm = Recommender.warm
    asked = []

    def warm_and_end(self, request, **given):
        asked.append(request)
        if len(asked) == 4:
            os.kill(os.getpid(), number)
        return warm(self, request, **given)

    monkeypatch.setattr(Recommender, "warm", warm_and_end)
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    run("--forever")
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    (left,) = schedule.runs.all()
    assert (left.state, left.runner) == ("waiting", "")
    assert left.warmed + left.questions.filter(state="waiting").count() == 10
    assert left.warmed < 10
