"""Who gets a run, and what a schedule that is due leads to. The database decides."""

from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from plugins.apps import reset_registry
from serving_app import warmup_runs
from serving_app.models import ServedModel
from serving_app.warmup_models import ScheduledStrategy, WarmupQuestion, WarmupRun, WarmupSchedule
from serving_app.warmup_runs import AlreadyRunning, claim, request_run, run_of, start_due, stop
from tests.serving_app.warmups import make_row, make_schedule

pytestmark = [pytest.mark.contract("W3"), pytest.mark.django_db]

State = WarmupRun.State


@pytest.fixture(autouse=True)
def registered(db):
    """The model ``default``, with a version in production."""
    reset_registry()
    make_row()


def test_a_schedule_has_one_run_at_a_time():
    schedule = make_schedule()
    first = request_run(run_of(schedule))
    with pytest.raises(AlreadyRunning, match="'nightly' is not over"):
        request_run(run_of(schedule))
    taken = claim(timezone.now())
    assert taken.pk == first.pk
    with pytest.raises(AlreadyRunning):
        request_run(run_of(schedule))
    assert taken.end(State.DONE)
    assert request_run(run_of(schedule)).pk != first.pk
    other = make_schedule("other")
    request_run(run_of(other))


def test_one_of_all_who_want_a_run_gets_it():
    run = request_run(run_of(make_schedule()))
    got = [claim(timezone.now()) for _ in range(3)]
    assert [each is None for each in got] == [False, True, True]
    run.refresh_from_db()
    assert (run.state, run.runner, run.takeovers) == (State.RUNNING, got[0].runner, 0)
    assert run.started is not None


def test_who_read_the_row_before_another_took_it_gets_nothing(monkeypatch):
    """Between the look and the UPDATE another process was quicker."""
    request_run(run_of(make_schedule()))
    hex_ = warmup_runs.secrets.token_hex
    raced = []

    def while_another_takes_it(n):
        if not raced:
            raced.append(True)
            raced.append(claim(timezone.now()))
        return hex_(n)

    monkeypatch.setattr(warmup_runs.secrets, "token_hex", while_another_takes_it)
    assert claim(timezone.now()) is None
    assert raced[1] is not None


def test_a_dead_runner_is_taken_over_from_and_may_change_nothing_more(settings):
    settings.RECSERVE = {**settings.RECSERVE, "WARM_UP": {"DEAD_SECONDS": 30}}
    run = request_run(run_of(make_schedule()))
    now = timezone.now()
    dead = claim(now)
    assert claim(now + timedelta(seconds=29)) is None
    assert dead.alive()
    heir = claim(now + timedelta(seconds=31))
    assert heir.pk == run.pk
    run.refresh_from_db()
    assert (run.takeovers, run.runner) == (1, heir.runner)
    assert heir.resumed_from == run.started
    assert not dead.alive()
    assert dead.going_on() is None
    assert not dead.change(warmed=9)
    assert not dead.end(State.DONE)
    assert not dead.give_back()
    assert heir.going_on()
    run.refresh_from_db()
    assert (run.warmed, run.state) == (0, State.RUNNING)


def test_a_run_that_is_given_back_is_taken_as_it_is():
    run = request_run(run_of(make_schedule()))
    first = claim(timezone.now())
    assert first.change(warmed=3)
    assert first.give_back()
    assert first.going_on() is None
    second = claim(timezone.now())
    run.refresh_from_db()
    assert (second.pk, run.warmed, run.takeovers, second.resumed_from) == (run.pk, 3, 0, None)


def test_stopping_ends_what_waits_and_tells_what_runs():
    waits = request_run(run_of(make_schedule()))
    assert stop(waits)
    assert claim(timezone.now()) is None
    waits.refresh_from_db()
    assert (waits.state, bool(waits.ended)) == (State.STOPPED, True)
    runs = request_run(run_of(make_schedule("other")))
    taken = claim(timezone.now())
    assert taken.going_on() is True
    assert stop(runs)
    assert taken.going_on() is False
    assert taken.end(State.STOPPED)
    assert not stop(runs), "it has ended"


def test_what_is_due_runs_once_however_often_it_was_missed():
    schedule = make_schedule(interval=60.0)
    now = timezone.now()
    assert warmup_runs.due_schedules(now) == []
    late = now + timedelta(hours=5)
    (due,) = warmup_runs.due_schedules(late)
    (again,) = warmup_runs.due_schedules(late)
    run = start_due(due, late)
    assert run.by_clock
    assert start_due(again, late) is None, "another process had looked, too"
    schedule.refresh_from_db()
    assert late < schedule.next_due <= late + timedelta(seconds=60)
    assert WarmupRun.objects.count() == 1
    assert warmup_runs.due_schedules(late) == []


def test_what_is_due_waits_for_the_run_before():
    schedule = make_schedule(cron="* * * * *")
    request_run(run_of(schedule))
    late = timezone.now() + timedelta(minutes=5)
    (due,) = warmup_runs.due_schedules(late)
    assert start_due(due, late) is None
    assert WarmupRun.objects.count() == 1


def test_a_schedule_that_is_off_or_by_hand_is_never_due():
    late = timezone.now() + timedelta(days=400)
    assert make_schedule("by-hand").next_due is None
    off = make_schedule("off", cron="* * * * *", enabled=False)
    assert off.next_due is None
    off.enabled = True
    off.save()
    assert [each.name for each in warmup_runs.due_schedules(late)] == ["off"]


def test_a_schedule_that_cannot_run_leaves_a_run_that_says_why():
    schedule = make_schedule(interval=60.0)
    ScheduledStrategy.objects.update(strategy="gone")
    late = timezone.now() + timedelta(minutes=2)
    (due,) = warmup_runs.due_schedules(late)
    assert start_due(due, late) is None
    (run,) = schedule.runs.all()
    assert run.state == State.FAILED
    assert "no warm-up strategy 'gone'" in run.message
    assert claim(late) is None


def test_a_zone_that_is_gone_is_said_once_and_holds_nobody_up():
    """As after an update of the time zones."""
    schedule = make_schedule(cron="* * * * *")
    WarmupSchedule.objects.update(time_zone="Europe/Atlantis")
    late = timezone.now() + timedelta(minutes=5)
    (due,) = warmup_runs.due_schedules(late)
    assert start_due(due, late) is None
    (run,) = schedule.runs.all()
    assert (run.state, "no time zone 'Europe/Atlantis'" in run.message) == (State.FAILED, True)
    assert warmup_runs.due_schedules(late + timedelta(days=1)) == []


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"cron": "61 * * * *"}, "cron", "bad minute"),
        ({"cron": "daily"}, "cron", "five fields"),
        ({"cron": "0 6 * * *", "interval": 60.0}, "interval", "not both"),
        ({"interval": 1.0}, "interval", "greater than or equal to 10"),
        ({"interval": float("inf")}, "interval", "less than or equal"),
        ({"time_zone": "Mars/Olympus"}, "time_zone", "no time zone 'Mars/Olympus'"),
        ({"budget": 0}, "budget", "greater than or equal to 1"),
        ({"budget": 10**6}, "budget", "MAX_BUDGET"),
        ({"batch_size": 0}, "batch_size", "greater than or equal to 1"),
        ({"rate": 0.0}, "rate", "greater than or equal"),
        ({"rate": float("nan")}, "rate", "finite"),
        ({"name": "a/b"}, "name", "letters, digits"),
    ],
)
def test_a_wrong_schedule_says_what_is_wrong(change, field, says):
    row = WarmupSchedule(**{"name": "x", "model": ServedModel.objects.get(), **change})
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    assert says in " ".join(caught.value.message_dict[field])
    assert not WarmupSchedule.objects.exists()


@pytest.mark.parametrize(
    ("strategy", "options", "field", "says"),
    [
        ("populer", {}, "strategy", "Did you mean 'popular'?"),
        ("popular", {"dayz": 3}, "options", "'dayz' is no option"),
        ("popular", {"days": "3"}, "options", "'days'"),
        ("popular", {"days": -3}, "options", "'days'"),
        ("popular", [1], "options", "must be a mapping"),
    ],
)
def test_a_wrong_strategy_names_the_option(strategy, options, field, says):
    row = ScheduledStrategy(schedule=make_schedule(), strategy=strategy, options=options)
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    assert says in " ".join(caught.value.message_dict[field])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"alias": "canary"}, "'default@canary' has no live version"),
        ({"alias": "7"}, "'default@7' has no live version"),
        ({"strategies": ()}, "at least one strategy"),
    ],
)
def test_a_run_that_could_warm_nothing_is_refused(change, says):
    with pytest.raises(ValidationError, match=says):
        run_of(make_schedule(**change))
    assert not WarmupRun.objects.exists()


def test_a_model_that_is_not_live_is_refused():
    ServedModel.objects.create(name="new")
    with pytest.raises(ValidationError, match="'new' has no live version"):
        run_of(make_schedule(model="new"))
    with pytest.raises(ValidationError, match="no model 'none'"):
        warmup_runs.check_live("none", "")


def test_old_runs_and_questions_go(settings):
    settings.RECSERVE = {**settings.RECSERVE, "WARM_UP": {"RUNS": 3, "QUESTIONS": 4}}
    now = timezone.now()
    hour = timedelta(hours=1)
    for age in range(5):
        at = now - age * hour
        run = WarmupRun.objects.create(
            model="default", strategies=[], requested=at, ended=at, state=State.DONE
        )
        for position, fresh_for in enumerate((None, -2 * hour, hour)):
            WarmupQuestion.objects.create(
                run=run,
                position=position,
                k=1,
                score=1.0,
                state="warmed",
                fresh_until=None if fresh_for is None else now + fresh_for,
            )
    active = WarmupRun.objects.create(model="default", strategies=[], requested=now - 9 * hour)
    WarmupQuestion.objects.create(run=active, position=0, k=1, score=1.0)
    warmup_runs.prune(now)
    assert WarmupRun.objects.exclude(pk=active.pk).count() == 3
    assert active.questions.count() == 1, "it is not over"
    left = WarmupQuestion.objects.all()
    assert left.count() == 4
    assert not left.filter(run__ended__lt=now - 2 * hour, fresh_until=None).exists()


def test_a_schedule_that_is_deleted_leaves_its_runs():
    schedule = make_schedule()
    run = request_run(run_of(schedule))
    schedule.delete()
    run.refresh_from_db()
    assert (run.schedule, run.model) == (None, "default")


def test_plugins_that_are_gone_spoil_no_list_of_schedules():
    make_schedule()
    reset_registry()
    assert [str(each) for each in WarmupSchedule.objects.all()] == ["nightly"]
