"""Request ids, gzip, entity tags, CORS, and headers for browsers."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_app.api.answers import COMPRESS_ABOVE, accepts_gzip, compress, etag
from serving_app.core.request_record import request_id

pytestmark = pytest.mark.contract("A5")


@given(st.text(max_size=200))
def test_an_id_is_taken_as_it_is_or_made_anew_and_always_safe(given_id):
    made = request_id(given_id)
    assert 1 <= len(made) <= 128
    assert made.isascii()
    assert made.isprintable()
    assert " " not in made


def test_ids_that_clients_send_are_kept():
    for good in ("a", "7c9e6679-7425-40de-944b-e07fc1f90ae7", "trace/1:2=3@x+y", "x" * 128):
        assert request_id(good) == good
    for bad in ("", None, "x" * 129, "a b", "a\n", "a\r\nSet-Cookie: x=y", "é", "a;b", '"'):
        assert request_id(bad) != bad
    assert request_id(None) != request_id(None)


@pytest.mark.django_db
def test_every_answer_carries_its_id_and_a_problem_says_it(client_as):
    client = client_as(None)
    for path in ("/api/v1/health/live", "/api/v1/models", "/api/v1/nowhere", "/admin/login/", "/x"):
        answer = client.get(path, HTTP_X_REQUEST_ID="call-7")
        assert answer["X-Request-ID"] == "call-7", path
        if answer["Content-Type"] == "application/problem+json":
            assert answer.json()["request_id"] == "call-7"
    injected = client.get("/api/v1/health/live", HTTP_X_REQUEST_ID="a\r\nX-Evil: 1")
    assert "X-Evil" not in injected
    assert len(injected["X-Request-ID"]) == 32


@pytest.mark.django_db
def test_an_unknown_host_gets_a_problem_too(client_as):
    answer = client_as(None).get("/api/v1/health/live", HTTP_HOST="evil.example")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")
    page = client_as(None).get("/admin/", HTTP_HOST="evil.example")
    assert (page.status_code, page["Content-Type"].split(";")[0]) == (400, "text/html")


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("gzip", True),
        ("GZIP, br", True),
        ("br;q=1.0, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("", False),
        ("gzipped", False),
    ],
)
def test_what_a_client_takes_is_read_from_its_header(header, takes):
    assert accepts_gzip(header) is takes


@given(st.binary(max_size=5000))
def test_compressing_changes_nothing(body):
    assert gzip.decompress(compress(body)) == body
    assert compress(body) == compress(body)
    assert etag(body) == etag(bytes(body))


def test_large_answers_are_compressed_small_ones_and_secrets_are_not(client_as, live_model):
    client = client_as("administer")
    plain = client.get("/api/v1/schema?format=json")
    packed = client.get("/api/v1/schema?format=json", HTTP_ACCEPT_ENCODING="br, gzip")
    assert "Content-Encoding" not in plain
    assert "Accept-Encoding" in plain["Vary"]
    assert packed.headers["Content-Type"] == plain.headers["Content-Type"]
    question = {"requests": [{"user_id": str(n), "features": [1.0, 2.0, 3.0]} for n in range(20)]}
    batch = client.post(
        "/api/v1/predict/batch", question, format="json", HTTP_ACCEPT_ENCODING="gzip"
    )
    assert batch["Content-Encoding"] == "gzip"
    assert int(batch["Content-Length"]) == len(batch.content)
    assert len(json.loads(gzip.decompress(batch.content))["results"]) == 20
    small = client.get("/api/v1/health/live", HTTP_ACCEPT_ENCODING="gzip")
    assert len(small.content) < COMPRESS_ABOVE
    assert "Content-Encoding" not in small
    for n in range(10):
        client.post("/api/v1/tokens", {"name": f"token {n}"}, format="json")
    tokens = client.get("/api/v1/tokens", HTTP_ACCEPT_ENCODING="gzip")
    assert len(tokens.content) > COMPRESS_ABOVE
    assert "Content-Encoding" not in tokens
    assert tokens["Cache-Control"] == "no-store"
    client.cookies["sessionid"] = "x"
    with_cookie = client.post(
        "/api/v1/predict/batch", question, format="json", HTTP_ACCEPT_ENCODING="gzip"
    )
    assert "Content-Encoding" not in with_cookie


def test_what_has_not_changed_is_not_sent_again(client_as, live_model):
    client = client_as("administer")
    first = client.get("/api/v1/models")
    again = client.get("/api/v1/models", HTTP_IF_NONE_MATCH=first["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    assert again["ETag"] == first["ETag"]
    assert again["X-Request-ID"]
    client.patch("/api/v1/models/default", {"description": "new"}, format="json")
    changed = client.get("/api/v1/models", HTTP_IF_NONE_MATCH=first["ETag"])
    assert changed.status_code == 200
    assert changed["ETag"] != first["ETag"]


@pytest.mark.django_db
def test_browsers_of_listed_origins_only_may_read_answers(client_as, settings):
    settings.CORS_ALLOWED_ORIGINS = ["https://shop.example"]
    client = client_as(None)

    def preflight(origin, path="/api/v1/predict"):
        return client.options(
            path,
            HTTP_ORIGIN=origin,
            HTTP_ACCESS_CONTROL_REQUEST_METHOD="POST",
            HTTP_ACCESS_CONTROL_REQUEST_HEADERS="authorization",
        )

    allowed = preflight("https://shop.example")
    assert allowed["Access-Control-Allow-Origin"] == "https://shop.example"
    assert "authorization" in allowed["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in allowed
    for origin in ("https://evil.example", "http://shop.example", "null"):
        assert "Access-Control-Allow-Origin" not in preflight(origin)
    assert "Access-Control-Allow-Origin" not in preflight("https://shop.example", "/admin/")
    answer = client.get("/api/v1/health/live", HTTP_ORIGIN="https://shop.example")
    assert answer["Access-Control-Allow-Origin"] == "https://shop.example"
    assert "X-Request-ID" in answer["Access-Control-Expose-Headers"]


@pytest.mark.django_db
def test_answers_say_what_browsers_must_not_do(client_as):
    answer = client_as(None).get("/api/v1/health/live")
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer["Cache-Control"] == "private, no-cache"


@pytest.mark.contract("A5")
@pytest.mark.parametrize("path", ["predict", "predict/batch", "events"])
@pytest.mark.parametrize("door", [{}, {"HTTP_COOKIE": "a=b"}])
@pytest.mark.parametrize(
    "body",
    [
        rb'{"user_id": "u", "\ud800": 1}',
        rb'{"user_id": "u", "context": {"tags": ["\udfff"]}}',
        b'{"events": [{"user_id": "\xed\xa0\x80"}]}',
        rb'{"requests": [{"user_id": "u"}], "batch_id": "\ud800"}',
    ],
)
def test_half_a_surrogate_pair_is_no_text(client_as, live_model, path, door, body):
    answer = client_as("predict").generic(
        "POST", f"/api/v1/{path}", body, content_type="application/json", **door
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "parse-error")
