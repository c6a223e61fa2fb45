"""Whatever is sent to whatever endpoint: an answer as the schema says, and never a 500."""

import json
import logging
from urllib.parse import quote

import pytest
from django.core.management import call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving_app.api.schema import CODES

pytestmark = [pytest.mark.contract("A5")]

SCHEMA = "/api/v1/schema?format=json"
NAMES = ("default", "1", "none", "a", "%00", "..", "é", "💥", "x" * 300)

text = st.text(max_size=20) | st.sampled_from(["default", "predict", "numpy_linear", "in_process"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | text
    | st.sampled_from(["x" * 1000, 10**400, -(2**63) - 1, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


def resolved(schema, part):
    while "$ref" in part:
        part = schema["components"]["schemas"][part["$ref"].rpartition("/")[2]]
    return part


def shaped(schema, part, depth=0):
    """Values of a part of the schema, or of any other kind now and then."""
    part = resolved(schema, part)
    if "allOf" in part:
        return shaped(schema, part["allOf"][0], depth)
    kind = part.get("type")
    if "enum" in part:
        made = st.sampled_from(part["enum"])
    elif kind == "object" and "properties" in part and depth < 3:
        each = {name: shaped(schema, p, depth + 1) for name, p in part["properties"].items()}
        required = {name: each.pop(name) for name in part.get("required", ()) if name in each}
        made = st.fixed_dictionaries(required, optional=each)
    elif kind == "array" and depth < 3:
        made = st.lists(shaped(schema, part["items"], depth + 1), max_size=3)
    elif kind == "integer":
        made = st.integers(0, 50)
    elif kind == "number":
        made = st.floats(0, 1)
    elif kind == "boolean":
        made = st.booleans()
    elif kind == "string":
        made = st.sampled_from(NAMES)
    else:
        made = values
    return st.one_of(made, made, made, values)


def encoded(body):
    try:
        return json.dumps(body).encode("utf-8", "surrogatepass")
    except ValueError:
        return b"{"


@pytest.fixture
def schema(client_as, db):
    return client_as(None).get(SCHEMA).json()


def checked(schema, path, method, response):
    where = f"{method} {path}: {response.status_code} {response.content[:300]!r}"
    assert response.status_code < 500 or path.endswith(("/ready", "/predict")), where
    assert response.status_code != 500, where
    assert response["X-Request-ID"], where
    if response.status_code == 404 and b"There is no endpoint" in response.content:
        return  # a parameter made it another path
    documented = schema["paths"][path][method]["responses"]
    assert str(response.status_code) in documented, where
    if response.status_code >= 400 and not path.endswith("/ready"):
        assert response["Content-Type"] == "application/problem+json", where
        problem = json.loads(response.content)
        assert problem["code"] in CODES[response.status_code], where
        assert problem["status"] == response.status_code, where
        assert problem["request_id"] == response["X-Request-ID"], where


@pytest.fixture
def unlimited(live_model, settings):
    no = {"operate": None, "administer": None, "sign_in": None}
    settings.RECSERVE = {**settings.RECSERVE, "ACCESS": {"THROTTLES": no}}


def test_no_request_is_a_500_and_every_answer_is_documented(client_as, schema, unlimited, caplog):
    caplog.set_level(logging.ERROR, "recserve.access")
    administrator, anonymous = client_as("administer"), client_as(None)
    operations = [
        (path, method, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(operations) >= 27

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def fuzz(data):
        path, method, operation = data.draw(st.sampled_from(operations))
        url = path
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                value = data.draw(st.sampled_from(NAMES) | st.integers(0, 10**30).map(str))
                url = url.replace(f"{{{parameter['name']}}}", quote(value, safe="%"))
        asked = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
        query = data.draw(
            st.dictionaries(
                st.sampled_from([*asked, "other"]),
                st.sampled_from(NAMES) | st.integers(-1, 10**25).map(str),
                max_size=3,
            )
        )
        if query:
            url += "?" + "&".join(f"{k}={quote(v, safe='%')}" for k, v in query.items())
        body = data.draw(
            shaped(schema, operation["requestBody"]["content"]["application/json"]["schema"])
            if "requestBody" in operation
            else values
        )
        raw = data.draw(st.one_of(st.just(encoded(body)), st.just(encoded(body)), st.binary()))
        client = data.draw(st.sampled_from([administrator, administrator, anonymous]))
        sent = {} if method == "get" else {"data": raw}
        if method != "get":
            sent["content_type"] = data.draw(
                st.sampled_from(["application/json", "application/json", "text/plain", ""])
            )
        checked(schema, path, method, client.generic(method.upper(), url, **sent))

    fuzz()


@pytest.mark.django_db
def test_the_schema_is_sound(tmp_path):
    call_command(
        "spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yaml")
    )


def test_the_schema_knows_every_problem_and_shows_examples(schema):
    predict = schema["paths"]["/api/v1/predict"]["post"]
    assert {"400", "401", "403", "404", "413", "422", "429", "500", "503", "504"} <= set(
        predict["responses"]
    )
    content = predict["responses"]["429"]["content"]["application/problem+json"]
    assert content["example"]["code"] == "queue-full"
    assert predict["requestBody"]["content"]["application/json"]["examples"]
    assert predict["responses"]["200"]["content"]["application/json"]["example"]["scores"]
