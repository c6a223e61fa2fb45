"""A sample of requests is kept, and can be run again."""

import dataclasses
import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from plugins import InvalidInput, Recommendation, RecommendationRequest
from serving_app import payload_log, wiring
from serving_app.payload_log import PayloadLog
from serving_app.payload_models import LoggedRequest
from serving_app.registration import register
from serving_app.replay import Summary
from tests.conftest import linear_draft
from tests.fakes import FakeClock

pytestmark = [pytest.mark.contract("A8"), pytest.mark.django_db]


def sampled(settings, **values):
    settings.RECSERVE = {**settings.RECSERVE, "LOGGING": values}


def ask(client, n, **more):
    body = {"user_id": f"u{n}", "features": [n % 7, 1.0, -n % 5], "k": 5, **more}
    answer = client.post("/api/v1/predict", body, format="json", HTTP_X_REQUEST_ID=f"id-{n}")
    assert answer.status_code == 200
    return answer.json()


@pytest.fixture
def logged(client_as, live_model, settings):
    """Thirty requests and their answers, in the log."""
    sampled(settings, PAYLOADS=1.0)
    client = client_as("predict")
    given = [ask(client, n, exclude=["i1"] if n % 2 else []) for n in range(30)]
    payload_log.flush()
    return given


def replay(capsys, *arguments):
    call_command("replay", "--json", *map(str, arguments))
    return json.loads(capsys.readouterr().out)


def test_nothing_is_kept_unless_it_is_wanted(client_as, live_model):
    ask(client_as("predict"), 1)
    payload_log.flush()
    assert not LoggedRequest.objects.exists()


def test_what_is_kept_is_the_request_and_its_answer(logged):
    row = LoggedRequest.objects.get(request_id="id-7")
    assert row.body["user_id"] == "u7"
    assert (row.body["k"], row.body["exclude"]) == (5, ["i1"])
    assert row.items == logged[7]["recommendations"]
    assert row.scores == logged[7]["scores"]
    assert (row.model, row.version, row.source) == ("default", 1, "model")


def test_a_batch_is_kept_request_by_request(client_as, live_model, settings):
    sampled(settings, PAYLOADS=1.0)
    requests = [
        {"user_id": "a", "features": [1, 2, 3], "k": 2},
        {"user_id": "b", "features": [1]},
        {"user_id": "c", "features": [3, 2, 1], "k": 3},
    ]
    client_as("predict").post("/api/v1/predict/batch", {"requests": requests}, format="json")
    payload_log.flush()
    kept = {row.body["user_id"]: len(row.items) for row in LoggedRequest.objects.all()}
    assert kept == {"a": 2, "c": 3}


def test_the_same_version_gives_the_same_answers(logged, capsys):
    found = replay(capsys, "--model-version", 1)
    assert found["requests"] == found["compared"] == 30
    assert found["identical"] == found["same_first"] == found["overlap"] == 1.0
    assert found["largest_score_difference"] == pytest.approx(0.0, abs=1e-5)
    assert found["errors"] == {}


def test_another_version_is_compared_with_the_log_and_with_a_version(logged, store, capsys):
    register("default", linear_draft(store, "two.npz", seed=2))
    with_log = replay(capsys, "--model-version", 2)
    assert with_log["compared"] == 30
    assert 0 < with_log["overlap"] < 1
    assert with_log["identical"] < 1
    assert with_log["mean_score_difference"] > 0
    with_one = replay(capsys, "--model-version", 2, "--against", 1)
    assert with_one["overlap"] == pytest.approx(with_log["overlap"])
    assert replay(capsys, "--model-version", 2, "--request-id", "id-3")["requests"] == 1
    assert replay(capsys, "--model-version", 2, "--limit", 4)["requests"] == 4


def test_a_version_that_cannot_answer_is_counted_not_fatal(logged, store, capsys):
    register("default", linear_draft(store, feature_names=("spend", "visits", "more")))
    LoggedRequest.objects.filter(request_id="id-1").update(
        body={"user_id": "u", "features": [1.0], "context": {}, "k": 5, "exclude": []}
    )
    LoggedRequest.objects.filter(request_id="id-2").update(body={})
    found = replay(capsys, "--model-version", 2)
    assert found["errors"] == {"InvalidInput": 2}
    assert found["compared"] == 28


def test_what_cannot_be_replayed_is_said(logged, live_model, capsys):
    for arguments in (
        ("--model-version", "9"),
        ("--model", "nope", "--model-version", "1"),
        ("--model-version", "1", "--request-id", "nope"),
    ):
        with pytest.raises(CommandError):
            call_command("replay", *arguments)
    LoggedRequest.objects.update(at=timezone.now() - timedelta(hours=2))
    with pytest.raises(CommandError, match="PAYLOADS"):
        call_command("replay", "--model-version", "1", "--hours", "1")
    call_command("replay", "--model-version", "1")
    assert "overlap" in capsys.readouterr().out


REQUEST = RecommendationRequest(user_id="u", features={"a": 1.0})
ANSWER = Recommendation(
    user_id="u", items=("i",), scores=(1.0,), model_name="m", model_version=1, source="l1"
)


def test_as_many_are_drawn_as_wanted_and_no_more_wait_than_may(settings, monkeypatch):
    sampled(settings, PAYLOADS=0.25)
    draws = iter([0.1, 0.3, 0.24, 0.25, 0.9])
    log = PayloadLog(draw=lambda: next(draws))
    for _ in range(5):
        log.consider(REQUEST, ANSWER, 0.001)
    log.flush()
    assert LoggedRequest.objects.count() == 2
    monkeypatch.setattr(payload_log, "_WAITING", 3)
    log = PayloadLog(draw=lambda: 0.0)
    for _ in range(5):
        log.consider(REQUEST, ANSWER, 0.001)
    assert log.dropped == 2


def test_what_the_database_does_not_take_is_dropped(settings):
    sampled(settings, PAYLOADS=1.0)
    log = PayloadLog(draw=lambda: 0.0)
    log.consider(REQUEST, dataclasses.replace(ANSWER, items=(b"no JSON",)), 0.001)
    log.consider(REQUEST, dataclasses.replace(ANSWER, source=None), 0.001)
    log.flush()
    assert log.dropped == 2
    assert not LoggedRequest.objects.exists()


def test_old_and_surplus_rows_go(settings):
    sampled(settings, PAYLOADS=1.0, PAYLOAD_DAYS=1, PAYLOAD_ROWS=3)
    clock = FakeClock()
    log = PayloadLog(draw=lambda: 0.0, clock=clock)
    log.flush()
    for _ in range(6):
        log.consider(REQUEST, ANSWER, 0.001)
    log.flush()
    assert LoggedRequest.objects.count() == 6, "it looks once a minute"
    newest = list(LoggedRequest.objects.order_by("-pk").values_list("pk", flat=True)[:3])
    clock.advance(61)
    log.flush()
    assert list(LoggedRequest.objects.order_by("-pk").values_list("pk", flat=True)) == newest
    LoggedRequest.objects.filter(pk=newest[0]).update(at=timezone.now() - timedelta(days=2))
    clock.advance(61)
    log.flush()
    assert set(LoggedRequest.objects.values_list("pk", flat=True)) == set(newest[1:])


def test_answers_are_compared_by_items_order_and_scores():
    summary = Summary()
    summary.add((["a", "b"], [2.0, 1.0]), (["a", "b"], [2.0, 1.0]))
    summary.add((["a", "b"], [2.0, 1.0]), (["b", "c"], [1.5, 1.0]))
    summary.add(([], []), ([], []))
    summary.add((["a"], [1.0]), InvalidInput("x", field="y"))
    assert summary.as_json() == {
        "compared": 3,
        "errors": {"InvalidInput": 1},
        "identical": pytest.approx(2 / 3),
        "same_first": pytest.approx(2 / 3),
        "overlap": pytest.approx((1 + 0.5 + 1) / 3),
        "mean_score_difference": pytest.approx(0.5 / 3),
        "largest_score_difference": 0.5,
    }
    assert Summary().as_json()["overlap"] is None


def test_a_serving_process_writes_by_itself(client_as, live_model, settings):
    sampled(settings, PAYLOADS=1.0)
    ask(client_as("predict"), 1)
    wiring.get_serving().reconciler.reconcile()
    assert LoggedRequest.objects.count() == 1
