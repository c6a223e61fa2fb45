"""json_linear does what recserve expects of a framework."""

import json

import pytest
from recserve_example.json_linear import JsonLinear

from plugins import ArtifactRejected, ModelSpec
from plugins.conformance import check_framework


def make_artifact(folder, names=("age", "tenure")):
    path = folder / "model.json"
    content = {"feature_names": names, "weights": [[1, 2, 3], [4, 5, 6]], "bias": [0, 1, 0]}
    path.write_text(json.dumps(content))
    return path


def test_conformance():
    check_framework(JsonLinear, make_artifact)
    check_framework(lambda: JsonLinear(scale=2.0), make_artifact)


def test_names_that_do_not_fit_the_weights_are_rejected(tmp_path):
    path = make_artifact(tmp_path, names=("age",))
    with pytest.raises(ArtifactRejected, match="1 names"):
        JsonLinear().load(ModelSpec("m", 1, "json_linear", path))
