import dataclasses

import numpy as np
import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.db.models import RestrictedError

from plugins import ArtifactRejected, PluginError
from serving_app import registration
from serving_app.models import ModelVersion, Promotion, ServedModel
from tests.conftest import FEATURES, linear_draft, write_catalogue, write_linear

pytestmark = [pytest.mark.django_db, pytest.mark.contract("S1")]


@pytest.fixture
def draft(store):
    return linear_draft(store)


def test_a_valid_version_is_registered_with_its_digest_and_signature(draft):
    version = registration.register("shop", draft)
    assert (str(version), version.items, version.problem) == ("shop@1", 20, "")
    assert len(version.sha256) == 64
    assert version.signature["inputs"] == [
        {"name": "features", "datatype": "FP32", "shape": [-1, 3]}
    ]
    assert version.model.live_version is None
    assert str(registration.register("shop", draft)) == "shop@2"


def rejected(store, draft, **changes):
    with pytest.raises((ArtifactRejected, PluginError)) as caught:
        registration.register("shop", dataclasses.replace(draft, **changes))
    assert not ServedModel.objects.exists()
    assert not ModelVersion.objects.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"artifact": "../linear.npz"}, "outside the model store"),
        ({"artifact": "/etc/passwd"}, "outside the model store"),
        ({"artifact": "gone.npz"}, "does not exist"),
        ({"catalogue": "../catalogue.csv"}, "outside the model store"),
        ({"sha256": "0" * 64}, "as declared"),
        ({"framework": "nump_linear"}, "numpy_linear"),
        ({"framework_options": {"devise": 1}}, "devise"),
        ({"feature_names": ()}, "Declare the feature names"),
        ({"feature_names": ("a", "b", "a")}, "declared twice"),
        ({"feature_names": ("a", "b")}, "takes 3 features, but 2 feature names"),
        ({"feature_source": "fil"}, "file"),
        ({"feature_source": "file", "feature_source_options": {"path": "gone"}}, "not exist"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_registered(store, draft, changes, says):
    assert says in rejected(store, draft, **changes)


def test_a_catalogue_of_another_length_is_rejected(store, draft):
    write_catalogue(store, "short.csv", items=19)
    says = rejected(store, draft, catalogue="short.csv")
    assert "scores 20 items, but the catalogue lists 19" in says


@pytest.mark.parametrize("framework", ["numpy_linear", "pytorch", "tensorflow"])
def test_a_corrupt_truncated_or_foreign_artifact_is_rejected(store, draft, framework):
    whole = (store / draft.artifact).read_bytes()
    (store / "truncated").write_bytes(whole[: len(whole) // 2])
    (store / "rubbish").write_bytes(b"\x80\x04rubbish" * 100)
    (store / "empty").write_bytes(b"")
    (store / "folder").mkdir()
    for artifact in ("truncated", "rubbish", "empty", "folder"):
        assert artifact in rejected(store, draft, artifact=artifact, framework=framework)


def test_a_zip_of_another_framework_is_rejected_with_the_way_out(store, draft):
    says = rejected(store, draft, framework="pytorch")
    assert "torch.jit.save" in says
    assert "SavedModel" in rejected(store, draft, framework="tensorflow")


def test_scores_that_are_not_finite_are_rejected(store, draft):
    np.savez(
        store / "nan.npz",
        weights=np.full((3, 20), np.nan, np.float32),
        bias=np.zeros(20, np.float32),
    )
    assert "NaN or infinite" in rejected(store, draft, artifact="nan.npz")


def test_an_npz_with_pickled_objects_is_never_unpickled(store, draft):
    class Bomb:
        def __reduce__(self):
            return (open, (str(store / "boom"), "w"))

    np.savez(store / "bomb.npz", weights=np.array([Bomb()], dtype=object))
    assert "no .npz file" in rejected(store, draft, artifact="bomb.npz")
    assert not (store / "boom").exists()


@pytest.mark.xdist_group("torch")
def test_a_model_that_hangs_is_given_up_and_harms_nothing(store, draft, settings):
    import torch

    class Hangs(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            while bool(features.sum() < 1e30):
                features = features * 1.0
            return features

    torch.jit.script(Hangs()).save(str(store / "hangs.pt"))
    settings.RECSERVE["SERVING"]["VALIDATION_SECONDS"] = 5
    says = rejected(store, draft, artifact="hangs.pt", framework="pytorch")
    assert "within 5 s" in says


@pytest.mark.xdist_group("tensorflow")
def test_a_model_that_crashes_its_process_is_reported_and_harms_nothing(store, draft):
    import tensorflow as tf

    class Crashes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "features")])
        def score(self, features):
            with tf.control_dependencies([tf.raw_ops.Abort(error_msg="deliberate")]):
                return {"scores": tf.identity(features)}

    module = Crashes()
    tf.saved_model.save(module, str(store / "crash"), signatures=module.score)
    says = rejected(store, draft, artifact="crash", framework="tensorflow")
    assert "crashed the process that validated it" in says
    assert "SIGABRT" in says


def test_a_bad_model_name_is_refused(draft):
    for name in ("", "a/b", ".hidden", "x" * 101, "spa ce", "new\nline"):
        with pytest.raises(ValidationError):
            registration.register(name, draft)
    assert not ServedModel.objects.exists()


def test_a_registered_version_never_changes(draft):
    version = registration.register("shop", draft)
    for field, value in (("artifact", "x"), ("sha256", "0" * 64), ("feature_names", ["x"])):
        stored = ModelVersion.objects.get(pk=version.pk)
        setattr(stored, field, value)
        with pytest.raises(ValidationError, match="never changes"):
            stored.save()
    stored = ModelVersion.objects.get(pk=version.pk)
    stored.notes = "words may change"
    stored.save()


def test_numbers_are_unique_within_a_model(draft):
    version = registration.register("shop", draft)
    version.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        version.save(force_insert=True)


def test_promoting_and_rolling_back_walk_the_history(draft, admin_user):
    one, two, three = (registration.register("shop", draft) for _ in range(3))
    model = one.model

    def live():
        model.refresh_from_db()
        return model.live_version

    registration.promote(one, by=admin_user)
    registration.promote(two)
    registration.promote(two)
    registration.promote(three)
    assert live() == three
    assert Promotion.objects.count() == 3
    assert registration.roll_back(model) == two
    assert registration.roll_back(model) == one
    with pytest.raises(ValidationError, match="no earlier live version"):
        registration.roll_back(model)
    assert live() == one
    registration.promote(three)
    assert registration.roll_back(model) == one


def test_a_version_that_fails_revalidation_cannot_go_live(store, draft):
    version = registration.register("shop", draft)
    assert registration.revalidate(version) == ""
    write_linear(store, draft.artifact, seed=9)
    problem = registration.revalidate(version)
    assert "as declared" in problem
    with pytest.raises(ValidationError, match="failed its last validation"):
        registration.promote(version)
    write_linear(store, draft.artifact, seed=0)
    assert registration.revalidate(version) == "" or "as declared" in problem


def test_a_live_version_cannot_be_deleted_but_its_model_can(draft):
    version = registration.register("shop", draft)
    registration.promote(version)
    with pytest.raises(RestrictedError):
        version.delete()
    version.model.delete()
    assert not ModelVersion.objects.exists()


class TestCommand:
    def run(self, capsys, *extra, artifact="linear.npz"):
        call_command(
            "register_model",
            "shop",
            artifact,
            "--framework",
            "numpy_linear",
            "--catalogue",
            "catalogue.csv",
            "--feature-names",
            ",".join(FEATURES),
            *extra,
        )
        return capsys.readouterr().out

    def test_it_registers_and_with_live_promotes(self, draft, capsys):
        assert "shop@1 is registered." in self.run(capsys)
        assert ServedModel.objects.get().live_version is None
        assert "shop@2 is registered and live." in self.run(capsys, "--live")
        assert ServedModel.objects.get().live_version.number == 2

    def test_it_says_what_is_wrong(self, draft, capsys):
        with pytest.raises(CommandError, match=r"Not registered.*does not exist"):
            self.run(capsys, artifact="gone.npz")
        with pytest.raises(CommandError, match="JSON"):
            self.run(capsys, "--framework-options", "[]")

    def test_feature_names_come_from_a_file_too(self, draft, capsys, tmp_path):
        path = tmp_path / "names.json"
        path.write_text('["age", "visits", "spend"]')
        assert "shop@1" in self.run(capsys, "--feature-names", f"@{path}")
        with pytest.raises(CommandError, match="Cannot read feature names"):
            self.run(capsys, "--feature-names", "@/nowhere/names.json")
