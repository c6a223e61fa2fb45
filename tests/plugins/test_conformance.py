"""The checks for plugin authors accept what is right, and name what is wrong."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from plugins import ArtifactRejected, InferenceError, Signature, TensorSpec
from plugins.conformance import check_executor, check_feature_source, check_framework
from plugins.executors.in_process import InProcess

pytestmark = pytest.mark.contract("O7")


# --- Frameworks -------------------------------------------------------------------------------


def make_artifact(folder):
    path = folder / "model.json"
    path.write_text(json.dumps([[1.0, 2.0], [3.0, 4.0]]))
    return path


class Linear:
    """A model that does as it should."""

    def __init__(self, weights):
        self.weights = weights
        self.signature = Signature(
            (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("scores", "FP32", (-1, 2)),)
        )

    def predict(self, inputs):
        return {"scores": inputs["x"] @ self.weights}

    def close(self):
        pass


class Loads:
    """A framework that does as it should."""

    model = Linear

    def load(self, spec):
        try:
            return self.model(np.array(json.loads(spec.path.read_text()), np.float32))
        except ValueError as error:
            raise ArtifactRejected("no JSON") from error


def test_a_sound_framework_passes():
    check_framework(Loads, make_artifact)


def test_a_framework_without_signature_needs_inputs():
    class Undeclared(Linear):
        def __init__(self, weights):
            super().__init__(weights)
            self.signature = None

    class Framework(Loads):
        model = Undeclared

    with pytest.raises(AssertionError, match="give make_inputs"):
        check_framework(Framework, make_artifact)
    check_framework(
        Framework, make_artifact, make_inputs=lambda n: {"x": np.ones((n, 2), np.float32)}
    )


class DependsOnTheBatch(Linear):
    def predict(self, inputs):
        return {"scores": (inputs["x"] - inputs["x"].mean(axis=0)) @ self.weights}


class DropsRows(Linear):
    def predict(self, inputs):
        return {"scores": inputs["x"][:1] @ self.weights}


class ReturnsLists(Linear):
    def predict(self, inputs):
        return {"scores": (inputs["x"] @ self.weights).tolist()}


class NamesItOtherwise(Linear):
    def predict(self, inputs):
        return {"logits": inputs["x"] @ self.weights}


class ChangesItsInput(Linear):
    def predict(self, inputs):
        inputs["x"][:] = 0
        return super().predict(inputs)


class DeclaresALower(Linear):
    def __init__(self, weights):
        super().__init__(weights)
        self.signature = Signature((TensorSpec("x", "float32", (-1, 2)),), self.signature.outputs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (DependsOnTheBatch, "depends on the rows beside it"),
        (DropsRows, "1 rows for 7"),
        (ReturnsLists, "not an array"),
        (NamesItOtherwise, "signature declares"),
        (ChangesItsInput, "changed its input x"),
        (DeclaresALower, "datatype 'float32' of x is none of BOOL"),
    ],
)
def test_a_wrong_model_is_caught(wrong, message):
    class Framework(Loads):
        model = wrong

    with pytest.raises(AssertionError, match=message):
        check_framework(Framework, make_artifact)


def test_a_framework_that_raises_otherwise_or_accepts_anything_is_caught():
    class Raises(Loads):
        def load(self, spec):
            return Linear(np.array(json.loads(spec.path.read_text()), np.float32))

    class Accepts(Loads):
        def load(self, spec):
            return Linear(np.eye(2, dtype=np.float32))

    with pytest.raises(AssertionError, match="must raise ArtifactRejected for an empty file"):
        check_framework(Raises, make_artifact)
    with pytest.raises(AssertionError, match="accepted an empty file"):
        check_framework(Accepts, make_artifact)


def test_a_directory_is_an_artifact_too():
    def make_directory(folder):
        (folder / "model").mkdir()
        make_artifact(folder / "model")
        return folder / "model"

    class Framework(Loads):
        def load(self, spec):
            try:
                return Linear(np.array(json.loads((spec.path / "model.json").read_text()), "f4"))
            except (ValueError, OSError) as error:
                raise ArtifactRejected("no JSON") from error

    check_framework(Framework, make_directory)


# --- Executors --------------------------------------------------------------------------------


def test_sound_executors_pass():
    check_executor(InProcess)
    check_executor(lambda: InProcess(min_instances=3))


class Hosted:
    """Runs one instance, rightly."""

    instances = 1

    def __init__(self, model):
        self.model = model
        self.lock = threading.Lock()

    def run(self, inputs):
        with self.lock:
            try:
                return self.model.predict(inputs)
            except Exception as error:
                raise InferenceError("no") from error

    def close(self):
        with self.lock:
            self.model.close()


class Unlocked(Hosted):
    instances = 4

    def __init__(self, model):
        super().__init__(model)
        model.delay = 0.01

    def run(self, inputs):
        try:
            return self.model.predict(inputs)
        except Exception as error:
            raise InferenceError("no") from error


class ClosesAtOnce(Hosted):
    def close(self):
        self.model.close()


class NeverCloses(Hosted):
    def close(self):
        pass


class LeaksErrors(Hosted):
    def run(self, inputs):
        with self.lock:
            return self.model.predict(inputs)


class LosesTheCause(Hosted):
    def run(self, inputs):
        with self.lock:
            try:
                return self.model.predict(inputs)
            except ValueError:
                pass
        raise InferenceError("no")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Unlocked, "two threads at once"),
        (ClosesAtOnce, "closed while a batch was running"),
        (NeverCloses, "closed an instance 0 times"),
        (LeaksErrors, "must raise InferenceError, not ValueError"),
        (LosesTheCause, "as cause"),
    ],
)
def test_a_wrong_executor_is_caught(wrong, message):
    class Executor:
        hosted = Hosted

        def host(self, spec, load):
            return self.hosted(load())

    check_executor(Executor)
    Executor.hosted = wrong
    with pytest.raises(AssertionError, match=message):
        check_executor(Executor)


# --- Feature sources --------------------------------------------------------------------------


class Source:
    """A feature source that does as it should."""

    feature_names = ("age", "visits")
    closed = False

    def features(self, user_id, context):
        return np.array([1, 2], np.float32) if str(user_id) == "7" else None

    def close(self):
        self.closed = True


def test_a_sound_source_passes_and_is_closed():
    for known in (7, "7"):
        source = Source()
        check_feature_source(source, known_user=known, unknown_user="nobody")
        assert source.closed


class Doubles(Source):
    def features(self, user_id, context):
        row = super().features(user_id, context)
        return None if row is None else row.astype(np.float64)


class TakesNumbersAlone(Source):
    def features(self, user_id, context):
        return super().features(user_id, context) if isinstance(user_id, int) else None


class KnowsAll(Source):
    def features(self, user_id, context):
        return np.array([1, 2], np.float32)


class Short(Source):
    def features(self, user_id, context):
        return np.array([1], np.float32)


class NamesTwice(Source):
    feature_names = ("age", "age")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Doubles, "float64, not float32"),
        (TakesNumbersAlone, "features.'7'. is None"),
        (KnowsAll, "must be None"),
        (Short, r"\(1,\), not \(2,\)"),
        (NamesTwice, "names one twice"),
    ],
)
def test_a_wrong_source_is_caught(wrong, message):
    with pytest.raises(AssertionError, match=message):
        check_feature_source(wrong(), known_user=7, unknown_user=8)
