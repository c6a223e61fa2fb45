"""Rules over real rollups, by a virtual clock: what fires, when, and what is sent."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cache_app import wiring as cache_wiring
from plugins import RecommendationRequest
from serving_app import alert_channels, alerts, wiring
from serving_app.alert_models import (
    Alert,
    AlertChannel,
    AlertDelivery,
    AlertLease,
    AlertRule,
    AlertSilence,
)
from serving_app.alert_rules import RULES
from serving_app.alert_work import AlertWork
from serving_app.core.rollups import Series
from serving_app.registration import promote, register
from serving_app.rollup_conf import RollupSettings
from serving_app.rollup_writer import add
from tests import servers
from tests.conftest import linear_draft
from tests.fakes import FakeClock
from tests.receivers import receiver
from tests.serving_app.test_rollups import DAY, Process

pytestmark = [pytest.mark.contract("O3"), pytest.mark.django_db]

TICK = 30.0  # the default is 10
NOON = DAY + 12 * 3600
OTHERS = ("No serving process",)


def rule(name):
    return AlertRule.objects.get(name=name)


def named(state="firing"):
    return sorted(Alert.objects.filter(state=state).values_list("rule__name", flat=True))


def run(clock, seconds, each):
    """Let time pass, tick by tick: do something, tell, evaluate."""
    until = clock.now + seconds
    while clock.now < until:
        clock.advance(TICK)
        each()
        alerts.evaluate(clock.now)


def yesterday(hits, misses):
    """Look-ups of the hour that was 24 hours before."""
    for at in (NOON - 86400 + 3600 * h for h in range(-1, 3)):
        counts = {("l1", hits), ("miss", misses)}
        add({at: {Series("told"): 60, **{Series("lookups", "m", "all", k): n for k, n in counts}}})


def test_the_rules_that_come_with_it_are_made_once_and_are_sound():
    assert {each.name for each in AlertRule.objects.all()} == {each["name"] for each in RULES}
    for each in AlertRule.objects.all():
        each.full_clean()
        assert [channel.kind for channel in each.channels.all()] == ["log"]
    for channel in AlertChannel.objects.all():
        channel.full_clean()


def test_no_alert_in_an_hour_of_steady_replay():
    yesterday(8000, 2000)
    clock = FakeClock(NOON)
    one, other = Process(clock), Process(clock)

    def each():
        for process in (one, other):
            process.asked(8)
            process.asked(2, how="model", seconds=0.05)
            process.tell()

    run(clock, 3600, each)
    assert not Alert.objects.exists()
    assert not AlertDelivery.objects.exists()


def test_a_drop_of_the_hit_rate_fires_within_its_window_and_resolves():
    yesterday(8000, 2000)
    drop = rule("Hit rate dropped")
    drop.hold = drop.calm = 0
    drop.save()
    clock = FakeClock(NOON)
    process = Process(clock)

    def asks(hits, misses):
        def each():
            process.asked(hits)
            process.asked(misses, how="model")
            process.tell()

        return each

    run(clock, 1200, asks(8, 2))
    assert not Alert.objects.exists()
    run(clock, drop.window + TICK, asks(2, 8))
    assert named() == ["Hit rate dropped"]
    alert = Alert.objects.get()
    assert alert.value < -0.3
    run(clock, drop.window + TICK, asks(8, 2))
    assert named("resolved") == ["Hit rate dropped"]
    assert [event.state for event in alert.events.all()] == ["firing", "resolved"]


def test_a_model_that_fails_fires_after_its_hold_and_resolves_after_its_calm():
    clock = FakeClock(NOON)
    process = Process(clock)

    def asks(how):
        def each():
            process.asked(10, how=how)
            process.tell()

        return each

    failing = rule("Requests fail")
    run(clock, 600, asks("l1"))
    run(clock, failing.window + failing.hold + TICK, asks("failed"))
    assert "Requests fail" in named()
    run(clock, failing.window + failing.calm + 2 * TICK, asks("l1"))
    assert named("resolved") == ["Requests fail"]
    assert not Alert.objects.exclude(state="resolved").exists()


def rolling(clock):
    """Return what tells the rollups of this process, by a virtual clock."""
    serving = wiring.get_serving()
    serving.rollups.__init__(RollupSettings(), clock=clock)
    return wiring.roll_up


def test_a_redis_that_dies_fires_within_its_window_and_resolves(settings, fresh, live_model):
    with servers.one() as server:
        settings.RECSERVE = {
            **settings.RECSERVE,
            "CACHE": {"L2": {"BACKEND": "redis", "URL": server.url}},
        }
        wiring.stop()
        cache_wiring.reset()
        wiring.get_serving().reconciler.reconcile()
        clock, users = FakeClock(NOON), iter(range(10**6))
        tell = rolling(clock)

        def each():
            for _ in range(6):  # more than the breaker takes
                question = RecommendationRequest(user_id=next(users), features=[1.0, 2.0, 3.0])
                wiring.get_recommender().recommend(question)
            tell()

        run(clock, 300, each)
        assert not named()
        server.kill()
        away = rule("L2 does not answer")
        run(clock, away.window + TICK, each)
        assert named() == ["L2 does not answer"]
        server.start()
        server.wait()

        def is_back():
            each()
            return cache_wiring.get_levels().stats()["l2"].state == "closed"

        servers.wait_for(is_back, what="the breaker closes")
        run(clock, away.window + away.calm + 2 * TICK, each)
        assert not named()
        assert named("resolved") == ["L2 does not answer"]


def test_a_model_that_cannot_be_loaded_fires_and_resolves(live_model, store):
    clock = FakeClock(NOON)
    tell = rolling(clock)
    version = register("broken", linear_draft(store, "broken.npz"))
    kept = (store / "broken.npz").read_bytes()
    (store / "broken.npz").unlink()
    promote(version)
    serving = wiring.get_serving()

    def each():
        tell()

    serving.reconciler.reconcile()
    lost = rule("A model is not live")
    run(clock, lost.window + lost.hold + TICK, each)
    assert named() == ["A model is not live"]
    (store / "broken.npz").write_bytes(kept)
    serving.reconciler._failed.clear()  # as half a minute later
    serving.reconciler.reconcile()
    run(clock, lost.window + lost.calm + 3 * TICK, each)
    assert named("resolved") == ["A model is not live"]


def test_absence_is_seen_from_outside(capsys):
    silent = rule("No serving process")
    clock = FakeClock(NOON)
    process = Process(clock)
    run(clock, 300, process.tell)
    assert not named()
    clock.advance(silent.window + 60)
    alerts.evaluate(clock.now)
    assert not named(), "a server that has just started tells in a moment"
    clock.advance(silent.hold)
    alerts.evaluate(clock.now)
    assert named() == ["No serving process"]
    with pytest.raises(CommandError, match="critical") as ended:
        call_command("alerts", "--list")
    assert ended.value.returncode == 3
    assert "Nothing was counted of processes in 3 min." in capsys.readouterr().out
    run(clock, 120, process.tell)
    assert named("resolved") == ["No serving process"]


def test_rates_and_single_models():
    calls = AlertRule(name="Busy", metric="requests", model="m", kind="rate", threshold=1.0)
    calls.full_clean()
    calls.window, calls.calm = 120, 0
    calls.save()
    clock = FakeClock(NOON)
    process = Process(clock)

    def each():
        process.asked(90)  # three a second
        process.tell()

    run(clock, 240, each)
    assert named() == ["Busy"]
    assert alerts.value_at(calls, clock.now) == pytest.approx(3.0, rel=0.01)
    calls.model = "other"
    assert alerts.value_at(calls, clock.now) == 0.0


def fired(name="Requests fail", at=NOON):
    """Let a rule fire now."""
    add({int(at) - 60: {Series("errors", "m", level="InferenceError"): 100, Series("told"): 1}})
    AlertRule.objects.filter(name=name).update(hold=0, calm=0)
    AlertRule.objects.exclude(name=name).update(enabled=False)
    alerts.evaluate(at)
    assert named() == [name]


def test_a_dead_webhook_loses_nothing_and_blocks_nothing(caplog):
    with receiver() as dead, receiver() as sound:
        for name, there in (("dead", dead), ("sound", sound)):
            channel = AlertChannel.objects.create(
                name=name, kind="webhook", options={"url": there.url}
            )
            channel.full_clean()
            rule("Requests fail").channels.add(channel)
        dead.status = 500
        fired()
        now = NOON
        assert alert_channels.deliver(now) == 2, "the log and the sound one took it"
        assert len(sound.got) == 1
        waiting = AlertDelivery.objects.get(state="waiting")
        assert "answered 500" in waiting.problem
        assert alert_channels.deliver(now + 1) == 0, "not before it is due"
        for tries in range(2, 9):
            now = AlertDelivery.objects.get(state="waiting").due.timestamp()
            assert alert_channels.deliver(now) == 0
            assert AlertDelivery.objects.get(state="waiting").tries == tries
        gone = AlertDelivery.objects.get(state="waiting").due.timestamp() - now
        assert gone == alert_channels.backoff(8) == 900.0
        AlertRule.objects.filter(name="Requests fail").update(enabled=False)
        dead.status = 200
        assert alert_channels.deliver(now + 900) == 1
        (_, body) = dead.got[0]
        assert json.loads(body)["id"] == json.loads(sound.got[0][1])["id"]
        assert not AlertDelivery.objects.exclude(state="sent").exists()


def test_a_notice_is_given_up_after_a_day_and_a_channel_gets_one_try_at_a_time(caplog):
    with receiver() as dead:
        dead.status = 500
        channel = AlertChannel.objects.create(
            name="dead", kind="webhook", options={"url": dead.url}
        )
        rule("Requests fail").channels.set([channel])
        fired()
        alerts.evaluate(NOON + 600)  # resolved: nothing to look at
        assert AlertDelivery.objects.count() == 2
        assert alert_channels.deliver(NOON + 600) == 0
        tries = sorted(AlertDelivery.objects.values_list("tries", flat=True))
        assert tries == [0, 1], "one failure says enough"
        for hours in (25, 25.5):
            alert_channels.deliver(NOON + hours * 3600)
        assert set(AlertDelivery.objects.values_list("state", flat=True)) == {"given_up"}


def test_silenced_alerts_are_told_of_when_they_still_fire_afterwards():
    moment = datetime.fromtimestamp(NOON, UTC)
    failing = rule("Requests fail")
    AlertSilence.objects.create(
        rule=failing, starts=moment, ends=moment + timedelta(seconds=60), reason="an upgrade"
    )
    fired()
    assert not AlertDelivery.objects.exists()
    add({NOON: {Series("errors", "m", level="InferenceError"): 100, Series("told"): 1}})
    alerts.evaluate(NOON + 70)
    assert [row.notice["state"] for row in AlertDelivery.objects.all()] == ["firing"]
    alerts.evaluate(NOON + 80)
    assert AlertDelivery.objects.count() == 1, "once"
    alerts.evaluate(NOON + 900)
    states = [row.notice["state"] for row in AlertDelivery.objects.order_by("pk")]
    assert states == ["firing", "resolved"]


@pytest.mark.parametrize(
    ("matcher", "silent"),
    [
        ({}, True),
        ({"severity": "critical"}, True),
        ({"severity": "info"}, False),
        ({"model": "shop"}, False),
    ],
)
def test_silences_match(matcher, silent):
    moment = datetime.fromtimestamp(NOON - 1, UTC)
    ends = moment + timedelta(hours=1)
    AlertSilence.objects.create(starts=moment, ends=ends, reason="x", **matcher)
    fired()
    assert AlertDelivery.objects.exists() is not silent


def test_one_process_at_a_time_has_the_lease():
    clock = FakeClock(NOON)
    assert alerts.take_lease("evaluate", "one", clock.now, 15)
    assert not alerts.take_lease("evaluate", "other", clock.now + 14, 15)
    assert alerts.take_lease("evaluate", "one", clock.now + 14, 15), "its own, again"
    assert alerts.take_lease("evaluate", "other", clock.now + 30, 15), "after it ran out"
    AlertWork("other", clock=clock).evaluate()
    assert AlertLease.objects.get(name="evaluate").holder == "other"


def test_who_evaluates_on_an_old_reading_changes_nothing():
    fired()
    stale = Alert.objects.get()
    Alert.objects.update(turn=stale.turn + 1)  # another process was quicker
    assert not alerts._write(stale, alerts._episode(stale))
    Alert.objects.update(state="pending")
    old = Alert.objects.get()
    Alert.objects.update(turn=old.turn + 1)
    assert not alerts._drop(old)
    assert Alert.objects.count() == 1


def test_a_disabled_rule_ends_its_alert_without_a_notice():
    fired()
    AlertDelivery.objects.all().delete()
    AlertRule.objects.filter(name="Requests fail").update(enabled=False)
    alerts.evaluate(NOON + 10)
    assert named("resolved") == ["Requests fail"]
    assert not AlertDelivery.objects.exists()


def test_old_alerts_go():
    fired()
    alerts.evaluate(NOON + 900)
    alerts.evaluate(NOON + 91 * 86400)
    assert not Alert.objects.exists()


def test_a_preview_says_what_evaluating_would_have_said():
    clock = FakeClock(NOON)
    process = Process(clock)
    failing = rule("Requests fail")

    def asks(how):
        def each():
            process.asked(10, how=how)
            process.tell()
            process.writer._written = 0.0  # at once, as if every tick was told at the minute's end

        return each

    run(clock, 600, asks("l1"))
    run(clock, 600, asks("failed"))
    run(clock, 900, asks("l1"))
    (alert,) = Alert.objects.filter(rule=failing)
    (episode,) = alerts.preview(failing, NOON, clock.now).episodes
    assert abs(episode.fired - alert.fired.timestamp()) <= 60 + TICK
    assert abs(episode.resolved - alert.resolved.timestamp()) <= 60 + TICK
    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = alerts.preview(failing, NOON - 86400, clock.now)
    assert len(found.values) > 1440
    assert len(queries) < 10, "minutes are read once"
    with pytest.raises(ValueError, match="a week"):
        alerts.preview(failing, NOON - 8 * 86400, NOON)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"metric": "nope"}, "metric"),
        ({"segment": "new"}, "segment"),
        ({"window": 60}, "window"),
        ({"clear": 0.9}, "clear"),
        ({"kind": "rate"}, "kind"),
        ({"threshold": float("nan")}, "threshold"),
        ({"severity": "bad"}, "severity"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(changes, field):
    wrong = AlertRule(name="x", metric="error_rate", threshold=0.5)
    wrong.full_clean()
    for name, value in changes.items():
        setattr(wrong, name, value)
    with pytest.raises(ValidationError) as error:
        wrong.full_clean()
    assert field in error.value.message_dict


def test_a_channel_that_makes_no_sense_is_refused(settings):
    settings.RECSERVE = {**settings.RECSERVE, "ALERTS": {"WEBHOOK_HOSTS": ["hooks.example.org"]}}
    AlertChannel(name="x", kind="webhook", options={"url": "https://hooks.example.org/"}).clean()
    for kind, options, field in (
        ("pigeon", {}, "kind"),
        ("webhook", {}, "options"),
        ("webhook", {"url": "https://evil.example/"}, "options"),
        ("webhook", {"url": "https://hooks.example.org/", "timeout": 99.0}, "options"),
        ("email", {"to": "nobody"}, "options"),
        ("log", [], "options"),
    ):
        with pytest.raises(ValidationError) as error:
            AlertChannel(name="x", kind=kind, options=options).clean()
        assert field in error.value.message_dict


def test_what_was_allowed_once_is_not_called_when_it_is_no_longer(settings, caplog):
    with receiver() as there:
        channel = AlertChannel.objects.create(name="x", kind="webhook", options={"url": there.url})
        rule("Requests fail").channels.set([channel])
        settings.RECSERVE = {**settings.RECSERVE, "ALERTS": {"WEBHOOK_HOSTS": ["example.org"]}}
        fired()
        assert alert_channels.deliver(NOON) == 0
        assert not there.got


def test_the_threads_of_a_server_evaluate_and_stop(monkeypatch, transactional_db, settings):
    settings.RECSERVE = {**settings.RECSERVE, "ALERTS": {"TICK_SECONDS": 0.01}}
    work = AlertWork("me")
    work.start()
    servers.wait_for(
        lambda: (
            {"evaluate", "deliver"}
            <= set(AlertLease.objects.filter(holder="me").values_list("name", flat=True))
        )
    )
    work.stop()
    assert not AlertLease.objects.exclude(holder="").exists()


def test_a_metric_says_how_many_fire(live_model):
    fired()
    assert alerts.firing() == {"info": 0, "warning": 0, "critical": 1}
    wiring.tell_metrics()
    from serving_app.metrics import of_all

    assert of_all()["recserve_alerts_firing"][("critical",)] == 1
