"""Real models of every output and of several inputs, registered, live and asked over REST."""

import json

import numpy as np
import pytest
from django.core.management import call_command

from plugins import ArtifactRejected
from serving_app import registration, wiring
from serving_app.models import ModelVersion
from tests.conftest import FEATURES, ITEMS, linear_draft, write_catalogue, write_linear
from tests.plugins.frameworks import artifacts

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh")]


def go_live(name, draft):
    version = registration.register(name, draft)
    registration.promote(version)
    wiring.get_serving().reconciler.reconcile()
    return version


@pytest.fixture
def predict(client_as):
    client = client_as("predict")

    def predict(status=200, **body):
        answer = client.post("/api/v1/predict", {"user_id": "u", **body}, format="json")
        assert answer.status_code == status, answer.content
        return json.loads(answer.content)

    return predict


TOWERS_SCHEMA = [
    {"name": "age", "input": "dense"},
    {"name": "visits", "type": "int", "input": "dense"},
    {"name": "member", "type": "bool", "input": "dense", "default": False},
    {"name": "city", "type": "string", "buckets": artifacts.CITIES, "flat": True},
    {
        "name": "recent",
        "type": "int",
        "input": "history",
        "minimum": 1,
        "maximum": artifacts.ITEMS - 1,
        "default": [],
        "sequence": {"max_length": 4},
    },
]


def towers_draft(store, make, framework):
    return registration.Draft(
        artifact=make(store).name,
        framework=framework,
        catalogue=write_catalogue(store, items=5),
        feature_schema=TOWERS_SCHEMA,
    )


def towers_ranking(features):
    from serving_app.core.feature_schema import bucket_of

    row = {
        "dense": np.array([[features["age"], features["visits"], features["member"]]], np.float32),
        "city": np.array([bucket_of(features["city"], artifacts.CITIES)]),
        "history": np.array([features["recent"][-4:] or [0]]),
    }
    scores = artifacts.towers(row)["scores"][0]
    return [f"i{n}" for n in np.argsort(-scores, kind="stable")], np.sort(scores)[::-1]


@pytest.mark.contract("S7")
@pytest.mark.parametrize(
    ("make", "framework"),
    [
        pytest.param(
            artifacts.towers_torchscript, "pytorch", marks=pytest.mark.xdist_group("torch")
        ),
        pytest.param(artifacts.towers_exported, "pytorch", marks=pytest.mark.xdist_group("torch")),
        pytest.param(
            artifacts.towers_saved_model, "tensorflow", marks=pytest.mark.xdist_group("tensorflow")
        ),
        pytest.param(artifacts.towers_onnx, "onnx"),
    ],
)
def test_a_model_of_several_inputs_answers_alone_and_in_batches_alike(
    store, client_as, predict, make, framework
):
    version = go_live("towers", towers_draft(store, make, framework))
    assert version.output == "scores"
    assert version.output_options == {"output": "scores"}
    assert version.feature_names == ["age", "visits", "member", "city", "recent"]
    assert [tensor["name"] for tensor in version.signature["inputs"]]
    asked = [
        {"age": 3.5, "visits": 2, "member": True, "city": "Ulm", "recent": [1, 2, 3, 4, 5, 6]},
        {"age": 1, "visits": 0, "member": False, "city": "Bonn", "recent": []},
        {"age": -1, "visits": 1, "member": True, "city": "Köln", "recent": [7]},
    ]
    bodies = [{"user_id": i, "model_name": "towers", "features": f} for i, f in enumerate(asked)]
    answer = client_as("predict").post("/api/v1/predict/batch", {"requests": bodies}, format="json")
    wiring.get_serving()
    for i, (features, got) in enumerate(zip(asked, answer.json()["results"], strict=True)):
        items, scores = towers_ranking(features)
        assert got["recommendations"] == items
        np.testing.assert_allclose(got["scores"], scores, rtol=1e-4, atol=1e-4)
        alone = predict(user_id=f"alone-{i}", model_name="towers", features=features)
        assert alone["recommendations"] == items
        np.testing.assert_allclose(alone["scores"], got["scores"], rtol=1e-4, atol=1e-4)
    problem = predict(422, model_name="towers", features={**asked[0], "recent": [1, "2"]})
    assert problem["errors"][0]["field"] == "features.recent"


@pytest.mark.contract("C4")
def test_features_of_a_schema_are_part_of_the_key(store, predict):
    go_live("towers", towers_draft(store, artifacts.towers_onnx, "onnx"))
    features = {"age": 1, "visits": 1, "city": "Ulm", "recent": [1, 2]}

    def source(**changes):
        return predict(model_name="towers", features={**features, **changes})["source"]

    assert [source(), source(), source(recent=[2, 1]), source(recent=[2, 1])] == [
        "model", "l1", "model", "l1"
    ]  # fmt: skip


@pytest.mark.contract("S8")
@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_an_embedding_is_answered_by_the_nearest_items(store, predict, metric):
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((30, 4)).astype(np.float32)
    np.save(store / "vectors.npy", vectors)
    weights = rng.standard_normal((3, 4)).astype(np.float32)
    np.savez(store / "user.npz", weights=weights)
    version = go_live(
        "near",
        registration.Draft(
            artifact="user.npz",
            framework="numpy_linear",
            catalogue=write_catalogue(store, items=30),
            feature_names=FEATURES,
            item_vectors="vectors.npy",
            output_options={"metric": metric},
        ),
    )
    assert version.output == "embedding"
    assert len(version.item_vectors_sha256) == 64
    user = np.array([1, -2, 0.5], np.float32) @ weights
    if metric == "cosine":
        user = user / np.linalg.norm(user)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ user
    wanted = [f"i{n}" for n in np.argsort(-scores, kind="stable")]
    answer = predict(model_name="near", features=[1, -2, 0.5], k=7, exclude=[wanted[1]])
    assert answer["recommendations"] == [wanted[0], *wanted[2:8]]
    np.testing.assert_allclose(answer["scores"][0], scores.max(), rtol=1e-5)


@pytest.mark.contract("S8")
def test_item_vectors_that_were_changed_do_not_go_live(store):
    np.save(store / "vectors.npy", np.ones((ITEMS, ITEMS), np.float32))
    version = registration.register(
        "near", linear_draft(store, item_vectors="vectors.npy", output="embedding")
    )
    np.save(store / "vectors.npy", np.zeros((ITEMS, ITEMS), np.float32))
    registration.promote(version)
    wiring.get_serving().reconciler.reconcile()
    assert "vectors.npy" in version.model.activations.get().problem


@pytest.fixture
def top_three(store):
    """A TorchScript model that ranks the three best itself."""
    import torch

    class Top(torch.nn.Module):
        def __init__(self, ids: bool):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.from_numpy(WEIGHTS), requires_grad=False)
            self.ids = ids

        def forward(self, features: torch.Tensor):
            best = torch.topk(features @ self.weights, 3)
            return {"found": best.indices + (100 if self.ids else 0), "scores": best.values}

    def make(ids=False):
        torch.jit.script(Top(ids).eval()).save(str(store / "top.pt"))
        return registration.Draft(
            artifact="top.pt",
            framework="pytorch",
            catalogue=write_catalogue(store),
            feature_names=FEATURES,
            output_options={"items_are": "ids"} if ids else {},
            output="top_k" if ids else "",
        )

    return make


WEIGHTS = np.random.default_rng(8).standard_normal((3, ITEMS)).astype(np.float32)


@pytest.mark.contract("S8")
@pytest.mark.xdist_group("torch")
def test_a_model_may_rank_itself_as_deep_as_it_goes(predict, top_three):
    version = go_live("top", top_three())
    assert version.output == "top_k"
    assert version.output_options["items"] == "found"
    wanted = [f"i{n}" for n in np.argsort(-(np.array([1, 2, 3], np.float32) @ WEIGHTS))]

    def asked(status=200, **body):
        return predict(status, model_name="top", features=[1, 2, 3], **body)

    assert asked(k=3)["recommendations"] == wanted[:3]
    assert asked(k=2, exclude=[wanted[0]])["recommendations"] == wanted[1:3]
    assert asked(k=3, exclude=[wanted[7]])["recommendations"] == wanted[:3]
    for body in ({"k": 4}, {"k": 3, "exclude": [wanted[1]]}):
        problem = asked(422, **body)
        assert "ranks 3 items itself" in problem["detail"]
        assert problem["code"] == "invalid-input"


@pytest.mark.contract("S8")
@pytest.mark.xdist_group("torch")
def test_a_model_that_ranks_itself_may_speak_of_ids(store, predict, top_three):
    lines = [f"{n + 100},Item {n}" for n in range(ITEMS)]
    draft = top_three(ids=True)
    (store / draft.catalogue).write_text("\n".join(["item,title", *lines]) + "\n", "utf-8")
    go_live("top", draft)
    wanted = np.argsort(-(np.array([1, 2, 3], np.float32) @ WEIGHTS))[:3] + 100
    answer = predict(model_name="top", features=[1, 2, 3], k=3)
    assert answer["recommendations"] == [str(item) for item in wanted]


@pytest.mark.contract("S8")
def test_a_raw_model_gives_tensors_and_recommends_nothing(store, predict):
    version = go_live(
        "raw",
        registration.Draft(
            artifact=artifacts.towers_onnx(store).name, framework="onnx", output="raw"
        ),
    )
    assert (version.output, version.items, version.catalogue) == ("raw", 0, "")
    for body in ({}, {"features": [1]}):
        problem = predict(422, model_name="raw", **body)
        assert "recommends nothing" in problem["detail"]
        assert problem["errors"][0]["field"] == "model_name"
    lease = wiring.get_serving().live.lease("raw")
    try:
        given = [artifacts.towers_inputs(rows, length, seed=rows) for rows, length in SHAPES]
        futures = [lease.version.infer(inputs) for inputs in given]
        for inputs, future in zip(given, futures, strict=True):
            outputs = future.result(10)
            for name, wanted in artifacts.towers(inputs).items():
                np.testing.assert_allclose(outputs[name], wanted, rtol=1e-4, atol=1e-5)
    finally:
        lease.release()


SHAPES = [(1, 3), (4, 3), (2, 5), (3, 3)]


@pytest.mark.contract("S8")
@pytest.mark.usefixtures("live_model")
def test_a_model_that_recommends_gives_its_tensors_too(store):
    lease = wiring.get_serving().live.lease("default")
    try:
        rows = np.ones((2, 3), np.float32)
        (scores,) = lease.version.infer({"features": rows}).result(10).values()
        ranking = lease.version.submit(lease.version.layout.row([1, 1, 1]), 1).result(10)
    finally:
        lease.release()
    assert scores.shape == (2, ITEMS)
    assert ranking.scores[0] == pytest.approx(scores[0].max())


@pytest.mark.contract("S1")
@pytest.mark.xdist_group("torch")
def test_a_model_whose_rows_depend_on_each_other_is_rejected(store):
    import torch

    class Centred(torch.nn.Module):
        def forward(self, features: torch.Tensor):
            return features - features.mean(0)

    torch.jit.script(Centred()).save(str(store / "centred.pt"))
    draft = linear_draft(store, catalogue=write_catalogue(store, "three.csv", items=3))
    with pytest.raises(ArtifactRejected, match="depends on the rows beside it"):
        registration.register(
            "m", registration.Draft(**{**vars_of(draft), "artifact": "centred.pt",
                                       "framework": "pytorch"})
        )  # fmt: skip


def vars_of(draft):
    return {name: getattr(draft, name) for name in draft.__dataclass_fields__}


@pytest.mark.contract("S1")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"feature_schema": [{"name": "x"}]}, "names and the feature schema differ"),
        ({"feature_names": (), "feature_schema": [{"name": "x", "tpye": "int"}]}, "'tpye'"),
        ({"feature_names": (), "feature_schema": [{"name": "x"}]}, "takes the inputs features"),
        ({"catalogue": ""}, "Give the catalogue"),
        ({"output": "embedding"}, "needs the items' vectors"),
        ({"item_vectors": "gone.npy"}, "does not exist"),
        ({"output": "top_k"}, "is two tensors"),
    ],
)
def test_what_is_declared_wrongly_is_said(store, changes, says):
    with pytest.raises(ArtifactRejected, match=says):
        registration.register("m", linear_draft(store, **changes))
    assert not ModelVersion.objects.exists()


@pytest.mark.contract("S1")
def test_a_version_with_a_schema_is_registered_by_command_api_and_validated_again(
    store, client_as, capsys, tmp_path
):
    artifact = artifacts.towers_onnx(store).name
    write_catalogue(store, items=5)
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(TOWERS_SCHEMA))
    call_command(
        "register_model", "m", artifact, "--framework", "onnx", "--catalogue", "catalogue.csv",
        "--feature-schema", f"@{path}", "--output", "scores",
    )  # fmt: skip
    assert "m@1" in capsys.readouterr().out
    version = ModelVersion.objects.get()
    assert registration.revalidate(version) == ""
    client = client_as("administer")
    body = {
        "artifact": artifact, "framework": "onnx", "catalogue": "catalogue.csv",
        "feature_schema": TOWERS_SCHEMA,
    }  # fmt: skip
    answer = client.post("/api/v1/models/m/versions", body, format="json")
    assert answer.status_code == 201, answer.content
    assert answer.json()["output"] == "scores"
    assert answer.json()["feature_schema"] == TOWERS_SCHEMA
    raw = client.post(
        "/api/v1/models/m/versions",
        {"artifact": artifact, "framework": "onnx", "output": "raw"},
        format="json",
    )
    assert raw.status_code == 201, raw.content
    assert raw.json()["output"] == "raw"


def test_the_linear_model_of_other_tests_is_still_scores(store):
    write_linear(store, "linear.npz")
    assert registration.register("m", linear_draft(store)).output == "scores"


@pytest.mark.contract("A6")
@pytest.mark.usefixtures("live_model")
def test_runs_are_counted_by_their_exact_rows_and_a_probe_is_none():
    lease = wiring.get_serving().live.lease("default")
    try:
        version = lease.version
        assert version.stats().runs.runs == 0
        for rows in (3, 1, 3):
            version.infer({"features": np.ones((rows, 3), np.float32)}).result(10)
        version.submit(version.layout.row([1, 1, 1]), 1).result(10)
        runs = version.stats().runs
    finally:
        lease.release()
    assert {size: counts.runs for size, counts in runs.by_size.items()} == {1: 2, 3: 2}
    assert (runs.rows, runs.runs, runs.failed) == (8, 4, 0)
    assert runs.last > 1.7e9
    assert all(counts.infer_seconds > 0 for counts in runs.by_size.values())
