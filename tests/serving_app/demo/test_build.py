"""The demo's files: one model in every format, and what is registered beside it."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest

from plugins.features.file import FileFeatures
from serving_app.demo import export
from serving_app.demo.build import FEATURE_NAMES, POPULARITY_FEATURE_NAMES, build
from serving_app.demo.generate import generate

ALL_FORMATS = ("torchscript", "torch_export", "saved_model", "numpy")


@pytest.fixture(scope="module")
def shop():
    return generate(n_users=120, n_items=90)


@pytest.fixture(scope="module")
def built(shop, tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo") / "store"
    return build(directory, *shop, formats=ALL_FORMATS)


def _torchscript(path):
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        module = torch.jit.load(path)
    return lambda rows: module(torch.from_numpy(rows))["scores"].numpy()


def _torch_export(path):
    import torch

    module = torch.export.load(path).module()
    return lambda rows: module(torch.from_numpy(rows))["scores"].detach().numpy()


def _saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures["serving_default"]

    def scores(rows, _keep=loaded):
        return function(features=tf.constant(rows))["scores"].numpy()

    return scores


def _numpy(path):
    with np.load(path, allow_pickle=False) as arrays:
        weights, bias = arrays["weights"], arrays["bias"]
    return lambda rows: rows @ weights + bias


LOADERS = {
    "torchscript": _torchscript,
    "torch_export": _torch_export,
    "saved_model": _saved_model,
    "numpy": _numpy,
}


def test_every_format_gives_the_same_scores_and_the_same_top_10(built):
    rng = np.random.default_rng(0)
    models = {name: LOADERS[name](built.artifacts[name]) for name in ALL_FORMATS}
    for batch in (1, 7):
        rows = rng.standard_normal((batch, 64)).astype(np.float32)
        expected = models["numpy"](rows)
        assert expected.shape == (batch, int(built.metrics["items"]))
        best = np.argsort(-expected, axis=1)[:, :10]
        for name, scores in models.items():
            got = scores(rows)
            assert got.dtype == np.float32, name
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=name)
            np.testing.assert_array_equal(np.argsort(-got, axis=1)[:, :10], best, err_msg=name)


def test_the_bias_is_in_every_format(tmp_path):
    factors = np.arange(6, dtype=np.float32).reshape(3, 2)
    bias = np.array([0.5, -1, 2], np.float32)
    rows = np.array([[1, 2]], np.float32)
    export.export_torchscript(tmp_path / "a", factors, bias)
    export.export_torch_export(tmp_path / "b.pt2", factors, bias)
    export.export_saved_model(tmp_path / "c", factors, bias)
    export.export_numpy(tmp_path / "d", factors, bias, ("x", "y"))
    for (name, load), file in zip(LOADERS.items(), ("a", "b.pt2", "c", "d"), strict=True):
        np.testing.assert_allclose(
            load(tmp_path / file)(rows), rows @ factors.T + bias, err_msg=name
        )


def test_features_and_catalogue_fit_the_model(built, shop):
    interactions, titles = shop
    with built.catalogue.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["item", "title"]
    assert rows[1:] == [[item, titles[item]] for item in interactions.item_ids]

    source = FileFeatures(path=str(built.factorisation_features))
    assert source.feature_names == FEATURE_NAMES
    assert FEATURE_NAMES[0] == "factor_00"
    assert FEATURE_NAMES[-1] == "factor_63"
    mine = [source.features(user_id, {}) for user_id in built.user_ids]
    unknown = source.features("a stranger", {})
    np.testing.assert_allclose(unknown, np.mean(mine, axis=0), atol=1e-5)
    counts = np.bincount(interactions.item_index)
    best = np.argsort(-_numpy(built.artifacts["numpy"])(unknown[None])[0])[:10]
    assert counts[best].mean() > 2 * counts.mean()


def test_popularity_ranks_by_count_for_everyone(built, shop):
    interactions, _ = shop
    source = FileFeatures(path=str(built.popularity_features))
    assert source.feature_names == POPULARITY_FEATURE_NAMES
    row = source.features(interactions.user_ids[0], {})
    assert row.tolist() == [1, 0]
    with np.load(built.popularity, allow_pickle=False) as arrays:
        assert tuple(arrays["feature_names"]) == POPULARITY_FEATURE_NAMES
        assert arrays["weights"].shape == (2, len(interactions.item_ids))
        assert arrays["weights"].max(axis=1).tolist() == [1, 1]
    counts = np.bincount(interactions.item_index)
    assert np.argmax(_numpy(built.popularity)(row[None])[0]) == np.argmax(counts)


def test_notes_say_how_good_it_is(built):
    assert f"HR@10 {built.metrics['hr_at_10']:.3f} leave-last-invoice-out" in built.notes
    assert f"popularity {built.metrics['hr_at_10_popularity']:.3f}" in built.notes
    assert built.popularity_notes.startswith(f"HR@10 {built.metrics['hr_at_10_popularity']:.3f}")


def test_a_second_run_replaces_the_first_and_leaves_nothing_else(shop, tmp_path):
    for _ in range(2):
        build(tmp_path, *shop, formats=("numpy",))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "catalogue.csv",
        "factorisation.npz",
        "factorisation_features",
        "popularity.npz",
        "popularity_features",
    ]


def test_unknown_format_is_named_before_anything_is_trained(shop, tmp_path):
    with pytest.raises(ValueError, match="No format onnx; there are torchscript"):
        build(tmp_path / "none", *shop, formats=("onnx",))
    assert not (tmp_path / "none").exists()


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    export.write_features(tmp_path / "f", ("a",), ("x",), [[1.0]])
    with pytest.raises(ValueError, match="twice"):
        export.write_features(tmp_path / "f", ("a", "a"), ("x",), [[1.0], [2.0]])
    assert FileFeatures(path=str(tmp_path / "f")).features("a", {}).tolist() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
