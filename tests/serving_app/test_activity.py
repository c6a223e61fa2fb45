"""Activity: recorded off the path, summed in the database, bounded."""

import json
import subprocess
import sys
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, OperationalError
from django.utils import timezone

from plugins import Priority, RecommendationRequest
from serving_app import activity, wiring
from serving_app.activity import ActivityLog, add_counts, prune, record_events
from serving_app.activity_conf import ActivitySettings, activity_settings
from serving_app.activity_models import ActivityCount, Event
from serving_app.core.activity import Asked, Counted, NewEvent
from serving_app.wiring import get_recommender
from tests.fakes import FakeClock
from tests.journeys.conftest import ROOT, environment, manage

pytestmark = [pytest.mark.contract("W1"), pytest.mark.django_db]

FEATURES = [1.0, 2.0, 3.0]


def request(user="u", **more):
    return RecommendationRequest(user_id=user, **more)


def log(clock=None, **settings):
    clock = clock or FakeClock(1000.0)
    return ActivityLog(ActivitySettings(**settings), clock=clock, monotonic=clock)


def asked(user="u", hour=0, **more):
    given = {"kind": "request", "model": "m", "alias": "", "context": "{}", "own_features": False}
    return Asked(hour=hour, user=user, **{**given, **more})


def with_activity(settings, **values):
    settings.RECSERVE = {**settings.RECSERVE, "ACTIVITY": values}


def test_both_predict_endpoints_are_counted_by_user_model_context_and_hour(client_as, live_model):
    client = client_as("predict")
    one = {"user_id": "u1", "features": FEATURES, "context": {"page": "home", "n": [1]}}
    for _ in range(3):
        assert client.post("/api/v1/predict", one, format="json").status_code == 200
    batch = {"requests": [one, {"user_id": 7, "features": FEATURES}, {"user_id": "u2"}]}
    assert client.post("/api/v1/predict/batch", batch, format="json").status_code == 200
    client.post("/api/v1/predict", {**one, "model_name": "nope"}, format="json")
    client.post("/api/v1/predict", {**one, "model_name": "default@1"}, format="json")
    wiring.get_serving().activity.flush(at_once=True)
    rows = {(row.user_id, row.alias): row for row in ActivityCount.objects.all()}
    assert rows.keys() == {("u1", ""), (7, ""), ("u1", "1")}, "only what was answered"
    row = rows["u1", ""]
    assert (row.count, row.model, row.kind, row.own_features) == (4, "default", "request", True)
    assert json.loads(row.context) == {"page": "home", "n": [1]}
    assert row.hour <= row.last < row.hour + timedelta(hours=1)


def test_a_warm_up_is_no_activity(live_model):
    get_recommender().recommend(request(features=FEATURES, priority=Priority.WARM_UP))
    get_recommender().recommend(request("v", features=FEATURES, priority=Priority.REFRESH))
    wiring.get_serving().activity.flush(at_once=True)
    assert [row.user for row in ActivityCount.objects.all()] == ["v"]


def test_nothing_is_recorded_if_it_is_not_wanted(live_model, settings):
    with_activity(settings, RECORD=False)
    wiring.stop()
    wiring.get_serving().reconciler.reconcile()
    get_recommender().recommend(request(features=FEATURES))
    wiring.get_serving().activity.flush(at_once=True)
    assert not ActivityCount.objects.exists()


def test_the_reconciler_writes(live_model, settings):
    with_activity(settings, FLUSH_SECONDS=1e-6)
    wiring.stop()
    serving = wiring.get_serving()
    serving.reconciler.reconcile()
    get_recommender().recommend(request(features=FEATURES))
    serving.reconciler.reconcile()
    assert ActivityCount.objects.get().count == 1


def test_a_process_that_ends_writes_what_waits(live_model, settings):
    with_activity(settings, FLUSH_SECONDS=3600)
    wiring.stop()
    serving = wiring.get_serving()
    serving.reconciler.reconcile()
    get_recommender().recommend(request(features=FEATURES))
    serving.reconciler.reconcile()
    assert not ActivityCount.objects.exists(), "not yet"
    serving.reconciler._sign_off()  # what its thread does last; here it has none
    assert ActivityCount.objects.get().count == 1


def test_it_is_written_every_few_seconds_and_added_up():
    clock = FakeClock(1000.0)
    one, other = log(clock), log(clock)
    for each in (one, other):
        each.asked(request())
        each.flush()
    assert not ActivityCount.objects.exists(), "not yet"
    clock.advance(5)
    for each in (one, other):
        each.asked(request())
        each.flush()
    row = ActivityCount.objects.get()
    assert (row.count, row.last.timestamp()) == (4, 1005.0)
    one.flush(at_once=True)
    assert ActivityCount.objects.get().count == 4, "nothing is written twice"


def test_an_earlier_writer_does_not_turn_the_last_time_back():
    add_counts({asked(): Counted(1, 50.0)})
    add_counts({asked(): Counted(2, 20.0)})
    row = ActivityCount.objects.get()
    assert (row.count, row.last.timestamp()) == (3, 50.0)


def test_many_rows_go_in_several_statements():
    counts = {asked(f"u{n}"): Counted(n + 1, 5.0) for n in range(1203)}
    add_counts(counts)
    add_counts(counts)
    rows = ActivityCount.objects.values_list("user", "count")
    assert dict(rows) == {f"u{n}": 2 * (n + 1) for n in range(1203)}


def test_what_cannot_be_kept_is_dropped_and_counted():
    full = log(waiting=2, counted=1)
    for user in ("a", "a", "a"):
        full.asked(request(user))
    assert full.dropped == 1, "the queue is full"
    full.flush()
    full.asked(request("b"))
    full.flush()
    assert full.dropped == 2, "no room for another question"
    odd = log(max_context_bytes=20)
    odd.asked(request(context={"page": "x" * 20}))
    odd.asked(request(context={"page": object()}))
    odd.asked(request("u" * 257))
    odd.asked(request(10**300))
    odd.flush(at_once=True)
    assert odd.dropped == 4
    assert not ActivityCount.objects.exists()


def test_a_database_that_is_away_gets_it_later(monkeypatch):
    clock = FakeClock(1000.0)
    kept = log(clock)
    kept.asked(request())
    with monkeypatch.context() as broken:
        broken.setattr(activity, "add_counts", raising(OperationalError("away")))
        kept.flush(at_once=True)
    kept.asked(request())
    kept.flush(at_once=True)
    assert ActivityCount.objects.get().count == 2
    assert kept.dropped == 0


def test_what_the_database_never_takes_is_lost_and_counted(monkeypatch):
    lost = log()
    lost.asked(request())
    lost.asked(request())
    with monkeypatch.context() as broken:
        broken.setattr(activity, "add_counts", raising(DataError("no")))
        lost.flush(at_once=True)
    assert lost.dropped == 2
    lost.flush(at_once=True)
    assert not ActivityCount.objects.exists()


def raising(error):
    def fail(*_):
        raise error

    return fail


def test_old_and_surplus_rows_go(settings):
    with_activity(settings, DAYS=2, EVENT_DAYS=1, ROWS=3, EVENT_ROWS=2)
    now = int(timezone.now().timestamp()) // 3600 * 3600
    add_counts({asked(hour=now - 3600 * n): Counted(1, now - 3600.0 * n) for n in (0, 1, 2, 3, 60)})
    add_counts({asked("v", hour=now - 3600): Counted(1, float(now))})
    record_events([NewEvent("u", "i", "view", "m", now - 3600.0 * n) for n in (0, 1, 2, 30)])
    ActivityCount.objects.filter(kind="view").delete()
    prune()
    hours = [now - int(row.hour.timestamp()) for row in ActivityCount.objects.all()]
    assert hours == [0, 3600, 3600]
    assert [now - int(row.at.timestamp()) for row in Event.objects.all()] == [0, 3600]


def test_pruning_comes_with_a_flush_now_and_then(settings):
    with_activity(settings, DAYS=1)
    clock = FakeClock(1000.0)
    pruning = log(clock)
    add_counts({asked(): Counted(1, 5.0)})
    clock.advance(299)
    pruning.flush(at_once=True)
    assert ActivityCount.objects.exists()
    clock.advance(1)
    pruning.flush(at_once=True)
    assert not ActivityCount.objects.exists()


def test_settings_are_checked(settings):
    for values, said in (
        ({"ROW": 1}, "Did you mean 'ROWS'"),
        ({"ROWS": 1.5}, "whole number"),
        ({"DAYS": 0}, "positive"),
        ({"RECORD": 1}, "True or False"),
    ):
        with_activity(settings, **values)
        with pytest.raises(ImproperlyConfigured, match=said):
            activity_settings()
    settings.RECSERVE = {"ACTIVITY": []}
    with pytest.raises(ImproperlyConfigured, match="dict"):
        activity_settings()


def test_the_admin_shows_it_and_changes_nothing(admin_client):
    add_counts({asked("someone"): Counted(3, 5.0)})
    record_events([NewEvent("someone", "i1", "view", "m", 5.0)])
    for name in ("activitycount", "event", "eventimport"):
        page = admin_client.get(
            f"/admin/serving_app/{name}/", {"q": "someone"} if name != "eventimport" else {}
        )
        assert page.status_code == 200
        assert (b"someone" in page.content) == (name != "eventimport")
        assert admin_client.get(f"/admin/serving_app/{name}/add/").status_code == 403
    row = ActivityCount.objects.get(kind="request")
    assert admin_client.get(f"/admin/serving_app/activitycount/{row.pk}/change/").status_code == 200


WRITER = """
import django; django.setup()
import sys
from plugins import RecommendationRequest
from serving_app.activity import ActivityLog
from serving_app.activity_conf import ActivitySettings
log = ActivityLog(ActivitySettings())
print("ready", flush=True)
sys.stdin.readline()
for turn in range(20):
    for n in range(50):
        log.asked(RecommendationRequest(user_id=f"u{(n * 7 + turn) % 30}"))
    log.flush(at_once=True)
print(log.dropped)
"""


@pytest.mark.contract("S10")
def test_counts_of_several_processes_are_summed(tmp_path):
    manage(tmp_path, "migrate", "-v0")
    settings = {"DJANGO_SETTINGS_MODULE": "recserve_project.settings"}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER],
            cwd=ROOT,
            env={**environment(tmp_path), **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # all at once
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert (writer.returncode, out) == (0, "0\n")
    summed = (
        "from django.db.models import Sum; from serving_app.activity_models import ActivityCount; "
        "rows = ActivityCount.objects; "
        "print(rows.values('user').distinct().count(), rows.aggregate(n=Sum('count'))['n'])"
    )
    shown = manage(tmp_path, "shell", "-v0", "-c", summed).stdout.split()
    assert shown == ["30", str(3 * 20 * 50)]
