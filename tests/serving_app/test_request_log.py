"""The access log, and how lines look."""

import json
import logging

import pytest
from django.core.exceptions import ImproperlyConfigured

from serving_app.core.request_record import RequestRecord, under_way
from serving_app.log_conf import log_settings
from serving_app.log_format import JSONFormatter, PlainFormatter, Unexpected
from serving_app.request_log import finished, user_hash

pytestmark = pytest.mark.contract("A8")

FEATURES = [1.0, 2.0, 3.0]


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "recserve.access")
    return lambda: [r.recserve for r in caplog.records if r.name == "recserve.access"]


def predict(client, user="someone@example.org", **more):
    body = {"user_id": user, "features": FEATURES}
    return client.post("/api/v1/predict", body, format="json", **more)


def test_a_prediction_is_one_line_without_its_user(client_as, live_model, lines, caplog):
    client = client_as("predict")
    predict(client, HTTP_X_REQUEST_ID="call-7")
    predict(client)
    first, second = lines()
    latency = first.pop("latency_ms")
    assert 0 < latency < 60_000
    assert first.pop("caller").startswith("user:")
    assert first == {
        "request_id": "call-7",
        "method": "POST",
        "path": "/api/v1/predict",
        "route": "api/v1/predict",
        "status": 200,
        "user": user_hash("someone@example.org"),
        "model": "default",
        "version": 1,
        "source": "model",
    }
    assert second["source"] == "l1"
    assert second["user"] == first["user"]
    assert "someone" not in "".join(JSONFormatter().format(r) for r in caplog.records)


def test_a_problem_says_its_code(client_as, live_model, lines):
    client_as("predict").post("/api/v1/predict", {"user_id": []}, format="json")
    (line,) = lines()
    assert (line["status"], line["code"]) == (422, "invalid-input")


def test_successes_are_sampled_and_others_never(client_as, live_model, lines, settings):
    settings.RECSERVE = {**settings.RECSERVE, "LOGGING": {"ACCESS": 0.0}}
    client = client_as("predict")
    assert predict(client).status_code == 200
    assert client.get("/api/v1/health/live").status_code == 200
    assert lines() == []
    assert predict(client, user="").status_code == 422
    assert len(lines()) == 1


def test_a_users_hash_is_stable_keyed_and_keeps_kinds_apart(settings):
    assert user_hash("7") == user_hash("7")
    assert user_hash("7") != user_hash(7)
    before = user_hash("7")
    settings.SECRET_KEY = "another"
    assert user_hash("7") != before


def record(message="hello", **more):
    made = logging.LogRecord("a.b", logging.INFO, __file__, 1, message, (), None)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_a_line_is_one_json_object_with_the_request_under_way():
    token = under_way.set(RequestRecord("call-7", "GET", "/x"))
    try:
        line = json.loads(JSONFormatter().format(record("two\nlines")))
        plain = PlainFormatter().format(record())
    finally:
        under_way.reset(token)
    assert line["message"] == "two\nlines"
    assert line["request_id"] == "call-7"
    assert line["time"].endswith("Z")
    assert plain.endswith("a.b hello request_id=call-7")
    assert "request_id" not in json.loads(JSONFormatter().format(record()))
    assert "\n" not in JSONFormatter().format(record("two\nlines"))


def test_a_traceback_is_text_without_local_variables():
    secret = "s3cret" + "!"
    try:
        raise ValueError("wrong")
    except ValueError as error:
        made = record(exc_info=(type(error), error, error.__traceback__))
    line = json.loads(JSONFormatter().format(made))
    assert "ValueError: wrong" in line["traceback"]
    assert secret not in line["traceback"]


def test_values_that_are_no_json_do_not_stop_a_line():
    line = json.loads(JSONFormatter().format(record(recserve={"x": object(), "y": 1})))
    assert line["y"] == 1


def test_plain_lines_end_with_the_fields():
    line = PlainFormatter().format(record(recserve={"source": "l1", "status": 200}))
    assert line.endswith("hello source=l1")


def test_a_request_that_got_no_answer_is_logged(lines):
    finished(RequestRecord("call-8", "POST", "/api/v1/predict"))
    assert lines()[0]["status"] == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ACESS": 1}, "Did you mean 'ACCESS'"),
        ({"ACCESS": 2}, "0 or more, at most 1"),
        ({"PAYLOADS": True}, "0 or more, at most 1"),
        ({"PAYLOAD_DAYS": 0}, "positive"),
    ],
)
def test_wrong_settings_are_named(settings, values, message):
    settings.RECSERVE = {**settings.RECSERVE, "LOGGING": values}
    with pytest.raises(ImproperlyConfigured, match=message):
        log_settings()


def test_answers_that_say_not_now_or_not_here_are_in_the_access_log_alone(settings):
    configured = settings.LOGGING["loggers"]["django.request"]["filters"]
    assert settings.LOGGING["filters"][configured[0]]["()"].endswith(f".{Unexpected.__name__}")
    kept = {}
    for status in (500, 501, 503, 504, None):
        record = logging.LogRecord("django.request", logging.ERROR, "", 0, "m", (), None)
        record.status_code = status
        kept[status] = Unexpected().filter(record)
    assert kept == {500: True, 501: False, 503: False, 504: False, None: True}
