"""The door at /v2, in process: who may what, every form of refusal, and rubbish of every kind."""

import contextlib
import dataclasses
import gzip
import json
import logging
import tomllib
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_app.wiring import get_levels
from plugins.frameworks import numpy_linear
from serving_app import access, process_statistics, registration, wiring
from serving_app.api.open_inference import door
from serving_app.api.open_inference.answers import Refused
from serving_app.api.open_inference.compression import compressed, decompressed
from serving_app.core.statistics import Statistics
from serving_app.models import ModelVersion, ServedModel
from tests.conftest import FEATURES, ITEMS, linear_draft, write_catalogue
from tests.journeys.conftest import ROOT
from tests.plugins.frameworks import artifacts

pytestmark = [pytest.mark.contract("A6")]

INFER = "/v2/models/default/infer"
ROW = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}


@pytest.fixture
def ask(client):
    """A factory of callers: ``ask("predict")`` sends a service token of that role."""

    def ask(role, **more):
        headers = {}
        if role:
            _, text = access.create_token(f"{role}-{more}", role=role, **more)
            headers["HTTP_AUTHORIZATION"] = f"Bearer {text}"

        def send(method, path, body=b"", **given):
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            given = {f"HTTP_{name.upper()}": value for name, value in given.items()}
            # No content type at all, as Triton's client sends it.
            return client.generic(method, path, sent, content_type="", **headers, **given)

        return send

    return ask


def checked(response):
    """Return what a refusal says, which has the protocol's form."""
    assert response.status_code >= 400, response.content
    assert response["Content-Type"] == "application/json"
    assert response["X-Request-ID"]
    (key,) = body = json.loads(response.content)
    assert key == "error"
    assert body["error"]
    return response.status_code, body["error"]


@pytest.mark.usefixtures("live_model")
def test_inference_passes_the_cache_by(ask):
    send = ask("predict")
    for _ in range(2):
        assert send("POST", INFER, {"inputs": [ROW]}).status_code == 200
    assert all(stats.insertions == 0 for stats in get_levels().stats().values())
    assert wiring.get_recommender().stats() == {}


@pytest.mark.usefixtures("live_model")
def test_who_may_what(ask):
    paths = {
        None: [("GET", "/v2"), ("GET", "/v2/health/live"), ("GET", "/v2/health/ready")],
        "predict": [
            ("GET", "/v2/models"),
            ("GET", "/v2/models/default"),
            ("GET", "/v2/models/default/versions/1/ready"),
            ("GET", "/v2/models/default/config"),
            ("POST", INFER),
        ],
        "operate": [
            ("GET", "/v2/models/stats"),
            ("GET", "/v2/models/default/stats"),
            ("POST", "/v2/repository/index"),
        ],
        "administer": [("POST", "/v2/repository/models/default/unload")],
    }
    roles = list(paths)
    for needs, asked in paths.items():
        for role in roles:
            send = ask(role)
            for method, path in asked:
                body = {"inputs": [ROW]} if path == INFER else b""
                response = send(method, path, body)
                if roles.index(role) >= roles.index(needs):
                    assert response.status_code == 200, (role, path, response.content)
                elif role is None:
                    assert checked(response)[0] == 401, path
                    assert response["WWW-Authenticate"].startswith("Bearer")
                else:
                    assert checked(response)[0] == 403, path


@pytest.mark.usefixtures("live_model")
def test_a_token_of_one_model_sees_no_other(ask, store):
    other = registration.register("other", linear_draft(store, "other.npz"))
    registration.promote(other)
    wiring.get_serving().reconciler.reconcile()
    send = ask("predict", models=[other.model])
    assert send("GET", "/v2/models").json() == {"models": ["other"]}
    for path in ("", "@production", "/ready", "/config"):
        assert send("GET", f"/v2/models/other{path}").status_code == 200
        assert checked(send("GET", f"/v2/models/default{path}"))[0] == 403
    assert checked(send("POST", INFER, {"inputs": [ROW]}))[0] == 403
    assert checked(send("GET", "/v2/models/nobody"))[0] == 403


@pytest.mark.usefixtures("live_model")
def test_a_session_is_nobody_here(client, admin_user):
    client.force_login(admin_user)
    assert client.get("/api/v1/models").status_code == 200
    assert client.get("/v2/models").status_code == 401


@pytest.mark.usefixtures("live_model")
@pytest.mark.parametrize(
    ("header", "status"), [("Bearer x", 401), ("Bearer", 401), ("Basic eDp5", 401), ("", 401)]
)
def test_a_token_that_is_none_is_401(client, header, status):
    response = client.get("/v2/models", HTTP_AUTHORIZATION=header)
    assert checked(response)[0] == status
    assert client.get("/v2/health/live", HTTP_AUTHORIZATION=header).status_code == 200


@pytest.mark.contract("S10")
@pytest.mark.usefixtures("live_model")
def test_statistics_tell_failures_and_memory_of_all_processes(ask, monkeypatch):
    send = ask("operate")

    def counted():
        (stats,) = send("GET", "/v2/models/default/stats").json()["model_stats"]
        return stats

    predict = numpy_linear._Linear.predict

    def failing(self, inputs):
        if inputs["features"].max() > 5:
            raise ValueError("too large")
        return predict(self, inputs)

    monkeypatch.setattr(numpy_linear._Linear, "predict", failing)
    statuses = [
        send("POST", INFER, {"inputs": [{**ROW, "data": [1, 2, last]}]}).status_code
        for last in (3, 9, 3, 9, 9)
    ]
    assert statuses == [200, 500, 200, 500, 500]
    here = counted()
    ends = here["inference_stats"]
    assert (ends["success"]["count"], ends["fail"]["count"]) == (2, 3)
    assert ends["success"]["ns"] > 0 < ends["fail"]["ns"]
    assert (here["inference_count"], ends["compute_infer"]["count"]) == (2, 2)
    ((key, memory),) = [(each["type"], each["byte_size"]) for each in here["memory_usage"]]
    assert (key, here["memory_usage"][0]["id"]) == ("CPU", 0)
    assert 0 <= memory < 2**30

    # Another process tells the same of an engine of its own.
    serving = wiring.get_serving()
    own = process_statistics.own(serving.live, serving.recommender, serving.shadows)
    version = own.versions["default"][1]
    (batching,) = version.engines.values()
    batching = dataclasses.replace(batching, memory=memory + 4096)
    version = dataclasses.replace(version, engines={"another:1/1": batching})
    process_statistics.tell("another:1", Statistics(versions={"default": {1: version}}))
    both = counted()
    for name in ("success", "fail", "queue"):
        for what in ("count", "ns"):
            assert both["inference_stats"][name][what] == 2 * ends[name][what]
    assert both["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": 2 * memory + 4096}]


@pytest.mark.usefixtures("live_model")
def test_a_request_counts_for_as_many_as_it_has_rows(ask, settings):
    settings.RECSERVE = {**settings.RECSERVE, "ACCESS": {"THROTTLES": {"predict": "10/min"}}}
    send = ask("predict")
    six = {**ROW, "shape": [6, 3], "data": [1.0] * 18}
    assert send("POST", INFER, {"inputs": [six]}).status_code == 200
    response = send("POST", INFER, {"inputs": [six]})
    assert checked(response)[0] == 429
    assert int(response["Retry-After"]) >= 1
    assert send("POST", INFER, {"inputs": [ROW]}).status_code == 200


@pytest.mark.usefixtures("live_model")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/", 200),
        ("HEAD", "/v2/health/live", 200),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/", 200),
        ("GET", "/v2/models/default/", 200),
        ("GET", "/v2/models/default/nothing", 404),
        ("GET", "/v2/models/default/versions/x", 404),
        ("GET", "/v2/models/default/versions/" + "9" * 40, 404),
        ("GET", "/v2/models/default@production/versions/1", 404),
        ("GET", "/v2/models/default@gone", 404),
        ("GET", "/v2/models/a%2Fb", 404),
        ("GET", "/v2/models/%00", 404),
        ("GET", "/v2/models/%ff", 404),
        ("GET", "/v2/%0a", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/models/default", 405),
        ("POST", "/v2/repository/mine/index", 501),
        ("POST", "/v2/repository/mine/models/default/load", 501),
        ("GET", "/v2/trace/setting", 501),
        ("POST", "/v2/models/default/generate", 501),
        ("GET", "/v2/systemsharedmemory/status", 200),
        ("POST", "/v2/cudasharedmemory/region/r/register", 501),
    ],
)
def test_every_path_has_an_answer_of_the_protocols_form(ask, method, path, status):
    response = ask("predict")(method, path)
    assert response.status_code == status, response.content
    if status >= 400:
        checked(response)
    if status == 405:
        assert response["Allow"] in {"GET", "POST"}


def test_the_server_has_the_projects_version(client, db):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert client.get("/v2").json()["version"] == project["version"]


def test_what_goes_wrong_outside_of_any_view_has_it_too(client, settings, db):
    response = client.get("/v2/models", HTTP_HOST="evil.example")
    assert checked(response) == (400, "The request is malformed.")


def test_an_unforeseen_error_is_500_and_says_nothing(monkeypatch, caplog):
    def broken():
        raise LookupError("secret")

    caplog.set_level(logging.CRITICAL + 1, "serving_app.api.open_inference.answers")
    given = door.answer("GET", "/v2/models", {}, b"", broken)
    assert given.status == 500
    assert b"secret" not in given.body
    assert json.loads(given.body)["error"]


@pytest.mark.usefixtures("live_model")
def test_a_server_that_starts_is_alive_and_not_ready(client):
    wiring.get_serving().reconciler.ready.clear()
    assert client.get("/v2/health/live").json() == {"live": True, "ready": False}
    response = client.get("/v2/health/ready")
    assert checked(response)[0] == 503
    assert response["Retry-After"] == "1"


# --- Models of other outputs ----------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.usefixtures("fresh")
def test_an_embedding_comes_as_it_is(store, ask):
    weights = np.eye(3, 4, dtype=np.float32)
    np.save(store / "vectors.npy", np.ones((30, 4), np.float32))
    np.savez(store / "user.npz", weights=weights)
    draft = registration.Draft(
        artifact="user.npz",
        framework="numpy_linear",
        catalogue=write_catalogue(store, items=30),
        feature_names=FEATURES,
        item_vectors="vectors.npy",
    )
    registration.promote(registration.register("default", draft))
    wiring.get_serving().reconciler.reconcile()
    send = ask("predict")
    (output,) = send("POST", INFER, {"inputs": [ROW]}).json()["outputs"]
    assert output["data"] == [1, 2, 3, 0]
    wish = {"name": output["name"], "parameters": {"classification": 2}}
    (output,) = send("POST", INFER, {"inputs": [ROW], "outputs": [wish]}).json()["outputs"]
    assert output["data"] == ["3.000000:2", "2.000000:1"]


@pytest.mark.django_db
@pytest.mark.usefixtures("fresh")
def test_a_raw_model_of_several_inputs(store, ask):
    draft = registration.Draft(
        artifact=artifacts.towers_onnx(store).name, framework="onnx", output="raw"
    )
    registration.promote(registration.register("default", draft))
    wiring.get_serving().reconciler.reconcile()
    given = artifacts.towers_inputs(5, 2)
    inputs = [
        {
            "name": name,
            "datatype": "FP32" if name == "dense" else "INT64",
            "shape": array.shape,
            "data": array.tolist(),
        }
        for name, array in given.items()
    ]
    answer = ask("predict")("POST", INFER, {"inputs": inputs}).json()
    for output in answer["outputs"]:
        got = np.array(output["data"]).reshape(output["shape"])
        np.testing.assert_allclose(got, artifacts.towers(given)[output["name"]], rtol=1e-4)


# --- Refusals of an inference ---------------------------------------------------------------------


@pytest.mark.usefixtures("live_model")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": [{**ROW, "shape": [3]}]}, "must have the shape"),
        ({"inputs": [{**ROW, "shape": [], "data": [1]}]}, "same number of rows"),
        ({"outputs": [{"name": "scores", "parameters": {"classification": 1001}}]}, "at most 1000"),
        ({"parameters": {"timeout": -1}}, "'timeout' must be a whole number"),
        ({"parameters": {"priority": 1.5}}, "'priority' must be a whole number"),
        ({"id": 7}, "parse"),
    ],
)
def test_a_wrong_inference_says_what_is_wrong(ask, changes, words):
    status, error = checked(ask("predict")("POST", INFER, {"inputs": [ROW], **changes}))
    assert status == 400
    assert words in error


@pytest.mark.usefixtures("live_model")
def test_a_time_out_that_cannot_be_met_is_refused(ask, monkeypatch):
    send = ask("predict")
    body = {"inputs": [ROW], "parameters": {"timeout": 1, "priority": 9}}
    response = send("POST", INFER, body)
    assert checked(response)[0] in {429, 504}


# --- Compression ----------------------------------------------------------------------------------


@given(
    st.binary(max_size=5000) | st.integers(1000, 5000).map(bytes),
    st.sampled_from(["gzip", "deflate", "GZIP ", "identity", ""]),
)
def test_what_is_compressed_is_read_back(body, coding):
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding.strip().lower(), bytes)
    assert decompressed(pack(body), coding, limit=5000) == body
    answer, encoding = compressed(body, coding.strip().lower())
    assert decompressed(answer, encoding, limit=5000) == body


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_no_rubbish_is_decompressed(body, coding):
    with contextlib.suppress(Refused):
        assert len(decompressed(body, coding, limit=100)) <= 100


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate;q=0.5", "deflate"),
        ("deflate;q=0", ""),
        ("br", ""),
        ("", ""),
    ],
)
def test_an_answer_is_compressed_as_the_client_takes_it(accepted, encoding):
    assert compressed(bytes(5000), accepted)[1] == encoding
    assert compressed(bytes(10), accepted)[1] == ""


@pytest.mark.usefixtures("live_model")
def test_the_limit_counts_before_and_after_decompression(ask, settings):
    serving = {**settings.RECSERVE["SERVING"], "MAX_INFER_BYTES": 2000}
    settings.RECSERVE = {**settings.RECSERVE, "SERVING": serving}
    send = ask("predict")
    plain = json.dumps({"inputs": [ROW]}).encode()
    for body, coding, status in (
        (plain.ljust(2000), "", 200),
        (plain.ljust(2001), "", 413),
        (gzip.compress(plain.ljust(2000)), "gzip", 200),
        (gzip.compress(plain.ljust(2001)), "gzip", 413),
        (zlib.compress(plain.ljust(100_000)), "deflate", 413),
    ):
        response = send("POST", INFER, body, content_encoding=coding)
        assert response.status_code == status, response.content
        if status != 200:
            assert checked(response)[1] == "The request body is larger than 2000 bytes."


# --- Load and unload ------------------------------------------------------------------------------


@pytest.mark.usefixtures("live_model")
def test_a_name_with_a_slash_is_refused_when_registered(client_as):
    response = client_as("administer").post("/api/v1/models", {"name": "a/b"}, format="json")
    assert response.status_code == 422


@pytest.mark.usefixtures("fresh")
def test_the_index_says_why_a_version_does_not_answer(ask, live_model, store):
    ServedModel.objects.create(name="empty")
    bad = registration.register("default", linear_draft(store, "second.npz"))
    ModelVersion.objects.filter(pk=bad.pk).update(problem="It is broken.")
    send = ask("operate")
    assert send("POST", "/v2/repository/index").json() == [
        {"name": "default", "version": "1", "state": "READY", "reason": ""},
        {"name": "default", "version": "2", "state": "UNAVAILABLE", "reason": "It is broken."},
        {"name": "empty", "state": "UNAVAILABLE", "reason": "it has no versions"},
    ]
    ready = send("POST", "/v2/repository/index", {"ready": True}).json()
    assert [each["version"] for each in ready] == ["1"]
    for body in ({"ready": 1}, [], b"{", b"[" * 100_000):
        assert checked(send("POST", "/v2/repository/index", body))[0] == 400


@pytest.mark.usefixtures("live_model")
def test_load_fails_with_a_reason(ask):
    send = ask("administer")
    load = "/v2/repository/models/{}/load".format
    assert checked(send("POST", load("nobody")))[0] == 404
    ServedModel.objects.create(name="empty")
    status, error = checked(send("POST", load("empty")))
    assert (status, error) == (400, "empty has no sound version to make live.")
    assert checked(send("POST", load("default"), {"parameters": [1]}))[0] == 400
    assert checked(send("POST", load("default"), {"parameters": {"config": "{}"}}))[0] == 501
    assert checked(send("POST", load("default"), b"{"))[0] == 400
    assert send("POST", load("default")).status_code == 200  # it is live already


# --- Rubbish --------------------------------------------------------------------------------------

names = st.sampled_from(["features", "scores", "x", "", "a" * 300, "é", "\0"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
junk = st.recursive(
    scalars | st.sampled_from([10**400, "\ud800", 2**63]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


def mostly(good):
    return st.one_of(good, good, good, junk)


parameters = mostly(
    st.dictionaries(
        st.sampled_from(
            [
                "binary_data", "binary_data_output", "binary_data_size", "classification",
                "timeout", "priority", "sequence_id", "triton_x", "mine",
            ]
        ),
        mostly(st.integers(-1, 24) | st.booleans()),
        max_size=3,
    )
)  # fmt: skip
datatypes = st.sampled_from(["FP32", "FP32", "FP32", "INT8", "BYTES", "BF16", "FP16", "X"])
shapes = st.sampled_from([[1, 3], [2, 3], [0, 3], [3], [], [1, -3], [0, 2**62, 2**62], [2**70]])
described = st.fixed_dictionaries(
    {"name": mostly(names), "shape": mostly(shapes), "datatype": mostly(datatypes)},
    optional={
        "data": mostly(st.lists(st.floats(-1e3, 1e3) | st.integers(-9, 9), max_size=6)),
        "parameters": parameters,
    },
)
bodies = mostly(
    st.fixed_dictionaries(
        {"inputs": mostly(st.lists(described, max_size=2))},
        optional={
            "id": mostly(st.text(max_size=5)),
            "parameters": parameters,
            "outputs": mostly(
                st.lists(
                    st.fixed_dictionaries(
                        {"name": mostly(names)}, optional={"parameters": parameters}
                    ),
                    max_size=2,
                )
            ),
        },
    )
)


def as_bytes(value):
    try:
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except ValueError:
        return b"{"


@pytest.mark.usefixtures("live_model")
def test_no_body_is_a_500_and_every_refusal_has_the_protocols_form():
    granted = access.verify(access.create_token("fuzz", role="administer")[1].encode())
    paths = st.sampled_from(
        [INFER] * 6
        + ["/v2/models/nobody/infer", "/v2/repository/index", "/v2/models/stats"]
        + ["/v2/repository/models/nobody/load"]
    )
    seen = set()

    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def fuzz(data):
        head = as_bytes(data.draw(bodies))
        tail = data.draw(st.sampled_from([b"", bytes(12), bytes(24), b"\1\0\0\0a"]))
        sent = data.draw(st.one_of(*[st.just(head + tail)] * 5, st.binary(max_size=60)))
        headers = data.draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "inference-header-content-length": st.sampled_from(
                        [str(len(head))] * 4 + ["0", "-1", "x", "9" * 30, ""]
                    ),
                    "content-encoding": st.sampled_from(["", "", "gzip", "deflate", "br"]),
                    "accept-encoding": st.sampled_from(["gzip", "deflate", "*", "x"]),
                },
            )
        )
        coding = headers.get("content-encoding")
        if coding in {"gzip", "deflate"} and data.draw(st.booleans()):
            sent = gzip.compress(sent) if coding == "gzip" else zlib.compress(sent)
        method = data.draw(st.sampled_from(["POST", "POST", "POST", "GET"]))
        answer = door.answer(method, data.draw(paths), headers, sent, lambda: granted)
        seen.add(answer.status)
        assert answer.status < 500 or answer.status == 501, (answer, sent, headers)
        if answer.status != 200:
            assert answer.headers["Content-Type"] == "application/json"
            (key,) = body = json.loads(answer.body)
            assert key == "error"
            assert body["error"]

    fuzz()
    assert {200, 400, 404, 405, 415} <= seen


@pytest.mark.usefixtures("live_model")
def test_strings_and_items_of_a_whole_catalogue(ask):
    wish = {"name": "scores", "parameters": {"classification": 1000}}
    answer = ask("predict")("POST", INFER, {"inputs": [ROW], "outputs": [wish]}).json()
    items = [text.rpartition(":")[2] for text in answer["outputs"][0]["data"]]
    assert sorted(items) == sorted(f"i{n}" for n in range(ITEMS))
