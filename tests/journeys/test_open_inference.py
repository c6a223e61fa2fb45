"""The stock clients of the Open Inference Protocol against the running server, unchanged."""

import gzip
import http.client
import itertools
import json
import zlib

import httpx
import numpy as np
import pytest

from serving_app.core.open_inference import DATATYPES
from tests.conftest import FEATURES, ITEMS, write_catalogue, write_linear
from tests.journeys.conftest import ROOT, free_port, manage, start, stop
from tests.plugins.frameworks import artifacts
from tests.servers import wait_for
from tests.serving_app.test_inputs_and_outputs import TOWERS_SCHEMA

triton = pytest.importorskip("tritonclient.http")

pytestmark = [pytest.mark.xdist_group("open-inference"), pytest.mark.contract("A6")]

CODINGS = (None, "gzip", "deflate")
NAMES = tuple(DATATYPES)


def identity(path):
    """Write an ONNX model that returns an input of every datatype as it is, as ``out-…``."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper

    names = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}

    def described(prefix):
        return [
            helper.make_tensor_value_info(
                f"{prefix}{name}", getattr(onnx.TensorProto, names.get(name, name)), ["n", 2]
            )
            for name in NAMES
        ]

    nodes = [helper.make_node("Identity", [name], [f"out-{name}"]) for name in NAMES]
    graph = helper.make_graph(nodes, "g", described(""), described("out-"))
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server of its own, with two workers and models of several frameworks."""
    var = tmp_path_factory.mktemp("var")
    store = var / "models"
    store.mkdir()
    manage(var, "migrate", "--verbosity", "0")
    identity(store / "identity.onnx")
    write_linear(store, "linear.npz")
    catalogue = write_catalogue(store)
    artifacts.towers_torchscript(store)
    register = ("register_model", "--live")
    manage(var, *register, "identity", "identity.onnx", "--framework", "onnx", "--output", "raw")
    linear = ("--framework", "numpy_linear", "--catalogue", catalogue)
    features = ("--feature-names", ",".join(FEATURES))
    manage(var, *register, "default", "linear.npz", *linear, *features)
    (var / "schema.json").write_text(json.dumps(TOWERS_SCHEMA))
    five = write_catalogue(store, "five.csv", items=5)
    schema = ("--feature-schema", f"@{var / 'schema.json'}", "--catalogue", five)
    manage(var, *register, "towers", "m.pt", "--framework", "pytorch", *schema)
    manage(var, "register_model", "resting", "linear.npz", *linear, *features)
    tokens = {
        role: json.loads(manage(var, "createtoken", role, "--role", role, "--json").stdout)["token"]
        for role in ("predict", "operate", "administer")
    }
    of_one = ("createtoken", "one", "--model", "towers", "--json")
    tokens["one"] = json.loads(manage(var, *of_one).stdout)["token"]
    (var / "demo.json").write_text(json.dumps({"tokens": tokens, "token": tokens["predict"]}))
    server = start(var, free_port(), workers=2)
    for name in ("identity", "default", "towers"):
        with server_as(server, "predict") as client:
            wait_for(lambda name=name: client.get(f"/v2/models/{name}/ready").status_code == 200)
    yield server
    stop(server)


def server_as(server, role):
    headers = {"Authorization": f"Bearer {server.demo['tokens'][role]}"} if role else {}
    return httpx.Client(base_url=server.url, headers=headers, timeout=60)


class Triton:
    """The stock client with a token in each call, which it takes as ``headers``."""

    def __init__(self, server, role):
        self._client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        token = server.demo["tokens"].get(role)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if not callable(method):
            return method
        return lambda *args, **more: method(*args, headers=dict(self._headers), **more)


@pytest.fixture
def client(running):
    return Triton(running, "predict")


@pytest.fixture
def operator(running):
    return Triton(running, "operate")


@pytest.fixture
def administrator(running):
    return Triton(running, "administer")


def values(name, rows=3):
    rng = np.random.default_rng(len(name))
    dtype = DATATYPES[name]
    if name == "BYTES":
        texts = np.array([["", "a"], ["é\0", "💥"], ["x" * 300, '"']], dtype=object)[:rows]
        return np.array([t.encode() for t in texts.ravel()], dtype=object).reshape(texts.shape)
    if name == "BOOL":
        return rng.integers(0, 2, (rows, 2)).astype(bool)
    if dtype.kind == "f":
        return rng.standard_normal((rows, 2)).astype(dtype)
    extremes = np.iinfo(dtype)
    array = rng.integers(0, 100, (rows, 2)).astype(dtype)
    if rows:
        array[0] = extremes.min, extremes.max
    return array


def tensor(name, array, datatype=None, binary=True):
    made = triton.InferInput(name, list(array.shape), datatype or name)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def everything(binary, rows=3):
    arrays = {name: values(name, rows) for name in NAMES}
    inputs = [  # the protocol's JSON has no FP16; the client refuses it
        tensor(name, array, binary=binary or name == "FP16") for name, array in arrays.items()
    ]
    return arrays, inputs


@pytest.mark.parametrize(
    ("binary_in", "binary_out", "request_coding", "answer_coding"),
    list(itertools.product((True, False), (True, False, None), CODINGS, CODINGS)),
)
def test_every_datatype_goes_through_in_every_coding(
    client, binary_in, binary_out, request_coding, answer_coding
):
    arrays, inputs = everything(binary_in)
    outputs = None
    if binary_out is not None:
        wanted = reversed(NAMES)
        outputs = [
            triton.InferRequestedOutput(f"out-{name}", binary_data=binary_out) for name in wanted
        ]
    result = client.infer(
        "identity",
        inputs,
        outputs=outputs,
        request_id="it's me",
        request_compression_algorithm=request_coding,
        response_compression_algorithm=answer_coding,
    )
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"]) == ("identity", "1")
    assert answer["id"] == "it's me"
    order = NAMES if outputs is None else reversed(NAMES)
    assert [each["name"] for each in answer["outputs"]] == [f"out-{name}" for name in order]
    for name, array in arrays.items():
        output = result.get_output(f"out-{name}")
        assert (output["datatype"], output["shape"]) == (name, [3, 2])
        got = result.as_numpy(f"out-{name}")
        if name == "BYTES":
            got = [v if isinstance(v, bytes) else v.encode() for v in got.ravel()]
            assert got == array.ravel().tolist()
        else:
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("binary", [True, False])
def test_no_rows_give_no_rows(client, binary):
    _, inputs = everything(binary, rows=0)
    result = client.infer("identity", inputs)
    for name in NAMES:
        assert result.as_numpy(f"out-{name}").shape == (0, 2)


def test_more_rows_than_a_batch_holds_are_run_in_several(client, operator):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((1000, 3)).astype(np.float32)
    with_many = client.infer("default", [tensor("features", rows, "FP32")])
    scores = with_many.as_numpy("scores")
    assert scores.shape == (1000, ITEMS)
    alone = client.infer("default", [tensor("features", rows[700:701], "FP32")])
    np.testing.assert_allclose(alone.as_numpy("scores")[0], scores[700], rtol=1e-5, atol=1e-5)
    sizes = operator.get_inference_statistics("default")["model_stats"][0]["batch_stats"]
    assert max(batch["batch_size"] for batch in sizes) <= 64


def test_a_recommender_gives_scores_and_by_classification_its_items(client):
    features = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
    scores = client.infer("default", [tensor("features", features, "FP32")]).as_numpy("scores")
    for binary in (True, False):
        wish = triton.InferRequestedOutput("scores", binary_data=binary, class_count=5)
        answer = client.infer("default", [tensor("features", features, "FP32")], outputs=[wish])
        classes = answer.as_numpy("scores")
        assert classes.shape == (2, 5)
        for row, each in zip(scores, classes, strict=True):
            best = np.argsort(-row, kind="stable")[:5]
            assert [c if isinstance(c, str) else c.decode() for c in each] == [
                f"{row[n]:f}:{n}:i{n}" for n in best
            ]


def test_several_inputs_of_a_torch_model(client):
    given = artifacts.towers_inputs(4, 6)
    datatypes = {"dense": "FP32", "city": "INT64", "history": "INT64"}
    result = client.infer(
        "towers", [tensor(name, array, datatypes[name]) for name, array in given.items()]
    )
    for name, wanted in artifacts.towers(given).items():
        np.testing.assert_allclose(result.as_numpy(name), wanted, rtol=1e-4, atol=1e-5)


def test_bf16_is_taken_for_fp32(client):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    features = np.array([[1.5, -2, 0.25]], ml_dtypes.bfloat16)
    got = client.infer("default", [tensor("features", features, "BF16")]).as_numpy("scores")
    exact = features.astype(np.float32)
    wanted = client.infer("default", [tensor("features", exact, "FP32")]).as_numpy("scores")
    np.testing.assert_array_equal(got, wanted)


def test_parameters_asynchronous_calls_and_query_strings(client):
    features = np.ones((1, 3), np.float32)
    inputs = [tensor("features", features, "FP32")]
    more = {"priority": 2, "timeout": 5_000_000, "parameters": {"mine": "x"}, "model_version": "1"}
    answers = [client.async_infer("default", inputs, **more) for _ in range(5)]
    first, *others = [each.get_result().as_numpy("scores") for each in answers]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-5)
    sequence = client.infer(
        "default", inputs, sequence_id=7, sequence_start=True, query_params={"a": 1}
    )
    np.testing.assert_allclose(sequence.as_numpy("scores"), first, rtol=1e-5)


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    server = client.get_server_metadata()
    assert server["name"] == "recserve"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(server["extensions"])
    assert client.is_model_ready("identity")
    assert client.is_model_ready("identity", "1")
    assert not client.is_model_ready("identity", "9")
    assert not client.is_model_ready("resting")
    assert not client.is_model_ready("nobody")
    for version in ("", "1"):
        identity = client.get_model_metadata("identity", version)
        assert (identity["name"], identity["versions"]) == ("identity", ["1"])
        assert identity["platform"] == "onnx"
        assert identity["inputs"] == [
            {"name": name, "datatype": name, "shape": [-1, 2]} for name in NAMES
        ]
        config = client.get_model_config("identity", version)
        assert config["max_batch_size"] == 64
        kinds = {each["name"]: each["data_type"] for each in config["input"]}
        assert kinds["BYTES"] == "TYPE_STRING"
        assert kinds["FP16"] == "TYPE_FP16"
        assert {tuple(each["dims"]) for each in config["output"]} == {(2,)}


def test_statistics_add_up_over_both_workers(client, operator):
    features = np.ones((3, 3), np.float32)

    def counted():
        (stats,) = operator.get_inference_statistics("default", "1")["model_stats"]
        return stats

    before = counted()
    for _ in range(7):
        client.infer("default", [tensor("features", features, "FP32")])
    wait_for(lambda: counted()["inference_count"] >= before["inference_count"] + 21)
    stats = counted()
    assert (stats["name"], stats["version"]) == ("default", "1")
    assert stats["last_inference"] > 1.7e12
    batches = stats["batch_stats"]
    rows = sum(each["batch_size"] * each["compute_infer"]["count"] for each in batches)
    assert rows == stats["inference_count"] == stats["inference_stats"]["compute_infer"]["count"]
    runs = sum(each["compute_infer"]["count"] for each in batches)
    assert runs == stats["execution_count"]
    for name in ("success", "queue", "compute_infer"):
        assert stats["inference_stats"][name]["ns"] > 0
    assert stats["inference_stats"]["fail"]["count"] == 0
    everything_ = operator.get_inference_statistics()["model_stats"]
    assert {each["name"] for each in everything_} >= {"identity", "default", "towers"}


def test_a_model_is_loaded_and_unloaded(running, client, administrator):
    def state():
        index = administrator.get_model_repository_index()
        return {each["name"]: (each.get("version"), each["state"]) for each in index}

    assert state()["resting"] == ("1", "UNAVAILABLE")
    assert state()["identity"] == ("1", "READY")
    administrator.load_model("resting")
    wait_for(lambda: client.is_model_ready("resting"))
    wait_for(lambda: state()["resting"] == ("1", "READY"))
    administrator.load_model("resting")
    features = np.ones((1, 3), np.float32)
    inputs = [tensor("features", features, "FP32")]
    assert client.infer("resting", inputs).as_numpy("scores").shape == (1, ITEMS)
    administrator.unload_model("resting", unload_dependents=True)

    def gone():  # in both workers: each new connection may lead to either
        headers = {"Authorization": f"Bearer {running.demo['token']}"}
        url = f"{running.url}/v2/models/resting/ready"
        return all(httpx.get(url, headers=headers).status_code == 503 for _ in range(12))

    wait_for(gone)
    assert state()["resting"] == ("1", "UNAVAILABLE")
    with pytest.raises(triton.InferenceServerException, match="no available versions") as refused:
        client.infer("resting", inputs)
    assert refused.value.status() == "503"
    for given in ({}, {"files": {"file:1/m": b"x"}}):
        with pytest.raises(triton.InferenceServerException, match="register a ver") as refused:
            administrator.load_model("resting", config="{}", **given)
        assert refused.value.status() == "501"
    with pytest.raises(triton.InferenceServerException, match="'nobody' is not found"):
        administrator.load_model("nobody")
    with pytest.raises(triton.InferenceServerException, match="'nobody' is not found"):
        administrator.unload_model("nobody")


def test_what_is_not_supported_says_so(client):
    for call in (
        client.get_trace_settings,
        lambda: client.get_trace_settings("default"),
        lambda: client.update_trace_settings(settings={"trace_level": ["OFF"]}),
        client.get_log_settings,
        lambda: client.update_log_settings({"log_info": True}),
        lambda: client.register_system_shared_memory("r", "/r", 8),
        lambda: client.register_cuda_shared_memory("r", b"x", 0, 8),
    ):
        with pytest.raises(triton.InferenceServerException, match="is not supported") as refused:
            call()
        assert refused.value.status() == "501"
    assert client.get_system_shared_memory_status() == []
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory("r")


ONES = np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (lambda c: c.get_model_metadata("nobody"), "404", "unknown model: 'nobody' is not found"),
        (lambda c: c.get_model_metadata("a/b"), "404", "Not Found"),
        (lambda c: c.get_model_metadata("a b"), "404", "unknown model: 'a b' is not found"),
        (lambda c: c.get_model_config("default", "9"), "404", "'default' version 9 is not found"),
        (lambda c: c.get_model_config("resting", "1"), "503", "version 1 is not at ready state"),
        (lambda c: c.get_model_config("resting"), "503", "has no available versions"),
        (lambda c: c.infer("nobody", [tensor("x", ONES, "FP32")]), "404", "unknown model"),
        (lambda c: c.infer("default", [tensor("x", ONES, "FP32")]), "400", "features is missing"),
        (
            lambda c: c.infer("default", [tensor("features", ONES[:, :2], "FP32")]),
            "400",
            r"must have the shape \[-1, 3\], not \[1, 2\]",
        ),
        (
            lambda c: c.infer("default", [tensor("features", ONES.astype(np.int8), "INT8")]),
            "400",
            "must be FP32, not INT8",
        ),
        (
            lambda c: c.infer(
                "default",
                [tensor("features", ONES, "FP32")],
                outputs=[triton.InferRequestedOutput("y")],
            ),
            "400",
            "unexpected inference output 'y'",
        ),
        (lambda c: c.get_inference_statistics(), "403", "needs the role operate"),
        (lambda c: c.get_model_repository_index(), "403", "needs the role operate"),
        (lambda c: c.load_model("resting"), "403", "needs the role administer"),
        (lambda c: c.unload_model("default"), "403", "needs the role administer"),
    ],
)
def test_errors_have_the_protocols_texts_and_codes(client, call, status, words):
    with pytest.raises(triton.InferenceServerException, match=words) as refused:
        call(client)
    assert refused.value.status() == status


def test_tokens_decide(running):
    nobody = Triton(running, None)
    assert nobody.is_server_live()
    assert nobody.is_server_ready()
    assert nobody.get_server_metadata()["name"] == "recserve"
    assert not nobody.is_model_ready("default")
    with pytest.raises(triton.InferenceServerException, match="Send a token") as refused:
        nobody.infer("default", [tensor("features", ONES, "FP32")])
    assert refused.value.status() == "401"
    one = Triton(running, "one")
    assert one.is_model_ready("towers")
    with pytest.raises(triton.InferenceServerException, match="may not ask the model") as refused:
        one.infer("default", [tensor("features", ONES, "FP32")])
    assert refused.value.status() == "403"


# --- KServe's client (0.21): its requests, byte for byte ------------------------------------------


def test_what_kserves_client_sends_and_reads(running):
    with server_as(running, "predict") as client:
        live, ready = (client.get(f"/v2/health/{what}") for what in ("live", "ready"))
        assert live.json()["live"] is True
        assert ready.json()["ready"] is True
        assert client.get("/v2/models/default/ready").is_success
        assert not client.get("/v2/models/resting/ready").is_success
        assert client.get("/v2/models").json()["models"] == ["default", "identity", "towers"]
        features = {"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [1, 1, 1]}
        body = {"id": "7", "inputs": [features]}
        answer = client.post("/v2/models/default/infer", json=body)
        assert answer.headers["Content-Type"] == "application/json"
        assert "Inference-Header-Content-Length" not in answer.headers
        assert answer.json()["id"] == "7"
        assert answer.json()["model_name"] == "default"
        (output,) = answer.json()["outputs"]
        del features["data"]
        features["parameters"] = {"binary_data_size": 12}
        head = json.dumps(body).encode()
        binary = client.post(
            "/v2/models/default/infer",
            content=head + ONES.tobytes(),
            headers={
                "inference-header-content-length": str(len(head)),
                "content-type": "application/octet-stream",
            },
        )
        assert binary.json()["outputs"][0]["data"] == pytest.approx(output["data"], rel=1e-6)
        refused = client.post("/v2/models/default/infer", json={})
        assert refused.status_code == 400
        assert refused.headers["Content-Type"] == "application/json"
        assert "inputs" in refused.json()["error"]


# --- Bodies as no client sends them ---------------------------------------------------------------


def test_a_raw_body_is_the_only_input(running):
    with server_as(running, "predict") as client:
        headers = {"Inference-Header-Content-Length": "0"}
        url = "/v2/models/default/infer"
        answer = client.post(url, content=ONES.tobytes(), headers=headers)
        assert answer.headers["Content-Type"] == "application/octet-stream"
        length = int(answer.headers["Inference-Header-Content-Length"])
        (output,) = json.loads(answer.content[:length])["outputs"]
        assert output["shape"] == [1, ITEMS]
        assert len(answer.content) == length + 4 * ITEMS
        refused = client.post(url, content=b"123", headers=headers)
        assert refused.status_code == 400
        assert "expecting 12 bytes, got 3" in refused.json()["error"]
        refused = client.post("/v2/models/towers/infer", content=b"", headers=headers)
        assert "needs a model of one input" in refused.json()["error"]


def test_large_bodies_and_zip_bombs_are_refused(running):
    limit = 64 * 1024 * 1024
    zeros = bytes(1 << 20)
    deflate, wide = zlib.compressobj(9), zlib.compressobj(9, zlib.DEFLATED, 31)
    bombs = {}
    for coding, made in (("deflate", deflate), ("gzip", wide)):
        parts = [made.compress(zeros) for _ in range(1024)]
        bombs[coding] = b"".join([*parts, made.flush()])
    with server_as(running, "predict") as client:
        url = "/v2/models/default/infer"
        for coding, bomb in bombs.items():
            assert len(bomb) < 2_000_000
            answer = client.post(url, content=bomb, headers={"Content-Encoding": coding})
            assert answer.status_code == 413
            assert str(limit) in answer.json()["error"]
        declared = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
        declared.request("POST", url, headers={"Content-Length": str(limit + 1)})
        answer = declared.getresponse()
        assert answer.status == 413
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.read())["error"].endswith("bytes.")
        declared.close()
        for coding, sent in (("gzip", b"x"), ("gzip", gzip.compress(b"{}")[:-3]), ("br", b"{}")):
            answer = client.post(url, content=sent, headers={"Content-Encoding": coding})
            assert answer.status_code in {400, 415}
            assert answer.json()["error"]


def test_the_page_of_the_documentation_works(running):
    """The Python in docs/open_inference.md runs as it stands, on this server."""
    page = (ROOT / "docs" / "open_inference.md").read_text("utf-8")
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    code = code.replace("127.0.0.1:8000", running.url.removeprefix("http://"))
    code = code.replace("YOUR-TOKEN", running.demo["token"])
    found = {}
    exec(compile(code, "docs/open_inference.md", "exec"), found)
    assert len(found["best"]) == 5
