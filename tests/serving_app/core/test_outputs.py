"""What a model may return, and how it becomes the best positions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins import ArtifactRejected, InferenceError, InvalidInput, Signature, TensorSpec
from serving_app.core.outputs import infer_output, ranker_of, read_item_vectors
from serving_app.core.tensors import checked_tensors, join, part

pytestmark = pytest.mark.contract("S8")

ITEMS = ("a", "b", "c", "10")


def best(kind, outputs, depth=3, *, rows=2, vectors=None, **options):
    ranker = ranker_of(kind, options, label="m@1", items=4, ids=ITEMS, vectors=vectors)
    return ranker.best(outputs, rows, depth)


SCORES = np.array([[1, 3, 2, 3], [0, 0, 5, -1]], np.float32)


def test_scores_are_ranked_and_the_named_output_is_taken():
    found = best("scores", {"other": np.zeros((2, 9)), "s": SCORES}, output="s")
    assert found.positions.tolist() == [[1, 3, 2], [2, 0, 1]]
    assert found.scores.tolist() == [[3, 3, 2], [5, 0, 0]]
    with pytest.raises(InferenceError, match="and no t, as it did"):
        best("scores", {"s": SCORES}, output="t")


def test_a_row_that_is_not_finite_spoils_no_other():
    scores = SCORES.copy()
    scores[0, 2] = np.nan
    found = best("scores", {"s": scores})
    assert found.sound.tolist() == [False, True]
    assert found.positions[1].tolist() == [2, 0, 1]


def top(items, scores, **options):
    items = np.array(items)
    outputs = {"i": items, "s": np.array(scores, np.float32)}
    named = {"items": "i", "scores": "s", **options}
    return best("top_k", outputs, items.shape[1], rows=len(items), **named)


def test_what_a_model_ranks_itself_comes_best_first_with_ties_by_position():
    found = top([[3, 1, 0], [2, 0, 1]], [[5, 7, 5], [1, 2, 3]])
    assert found.positions.tolist() == [[1, 0, 3], [1, 0, 2]]
    assert found.scores.tolist() == [[7, 5, 5], [3, 2, 1]]


@pytest.mark.parametrize("dtype", ["S2", "U2", object])
def test_item_ids_are_found_in_the_catalogue(dtype):
    ids = np.array([["c", "10"], ["b", "x"]], dtype=dtype)
    if dtype is object:
        ids = np.array([[item.encode() for item in row] for row in ids], dtype=object)
    found = top(ids, [[1, 2], [3, 4]], items_are="ids")
    assert found.positions[0].tolist() == [3, 2]
    assert found.sound.tolist() == [True, False]  # there is no x


def test_whole_numbers_may_be_ids():
    assert top([[10]], [[1]], items_are="ids").positions.tolist() == [[3]]


@pytest.mark.parametrize(
    ("items", "scores"),
    [([0, 4], [1, 2]), ([-1, 2], [1, 2]), ([2, 2], [1, 2]), ([0, 1], [1, np.nan])],
)
def test_what_is_no_ranking_fails_alone(items, scores):
    found = top([items, [3, 2]], [scores, [1, 2]])
    assert found.sound.tolist() == [False, True]
    assert found.positions[1].tolist() == [2, 3]


VECTORS = np.array([[1, 0], [0, 1], [2, 2], [-1, 0]], np.float32)


def test_an_embedding_is_compared_with_every_item():
    users = {"u": np.array([[1, 0], [0, 2]], np.float32)}
    found = best("embedding", users, vectors=VECTORS)
    assert found.positions.tolist() == [[2, 0, 1], [2, 1, 0]]
    assert found.scores.tolist() == [[2, 1, 0], [4, 2, 0]]


def test_cosine_looks_at_directions_only_and_zeros_are_far_from_all():
    users = {"u": np.array([[5, 0], [0, 0]], np.float32)}
    found = best("embedding", users, vectors=VECTORS, metric="cosine")
    assert found.positions.tolist() == [[0, 2, 1], [0, 1, 2]]
    np.testing.assert_allclose(found.scores[0], [1, 0.5**0.5, 0], rtol=1e-6)
    assert found.scores[1].tolist() == [0, 0, 0]


def test_a_vector_that_is_not_finite_fails_alone():
    users = {"u": np.array([[np.inf, 0], [0, 2]], np.float32)}
    found = best("embedding", users, vectors=VECTORS)
    assert found.sound.tolist() == [False, True]
    assert found.positions[1].tolist() == [2, 1, 0]


F, I = np.float32, np.int64  # noqa: E741  (as datatypes are called)


@pytest.mark.parametrize(
    ("outputs", "vectors", "kind", "options"),
    [
        ({"s": (F, 4)}, 0, "scores", {"output": "s"}),
        ({"v": (F, 2), "s": (F, 4)}, 0, "scores", {"output": "s"}),
        ({"v": (F, 2), "s": (F, 4)}, 2, "embedding", {"output": "v"}),
        (
            {"i": (I, 3), "s": (F, 3)},
            0,
            "top_k",
            {"items": "i", "scores": "s", "items_are": "positions"},
        ),
    ],
)
def test_what_a_model_returns_says_what_it_is(outputs, vectors, kind, options):
    arrays = {name: np.zeros((2, n), dtype) for name, (dtype, n) in outputs.items()}
    assert infer_output("", {}, arrays, items=4, vectors=vectors) == (kind, options)


def test_without_a_catalogue_it_is_raw():
    assert infer_output("", {}, {"s": np.zeros((2, 4))}, items=0, vectors=0) == ("raw", {})


@pytest.mark.parametrize(
    ("kind", "options", "more", "says"),
    [
        ("score", {}, {}, "output must be one of scores, top_k, embedding, raw"),
        ("scores", {"metric": "cosine"}, {}, "has no option 'metric'; it has output"),
        ("scores", {"output": "t"}, {}, "has no output 't'; it has s, v"),
        ("scores", {"output": "v"}, {}, "scores 2 items, but the catalogue lists 4"),
        ("scores", {}, {"items": 0}, "needs the catalogue"),
        ("scores", {}, {"vectors": 2}, "Item vectors are for an output embedding"),
        ("embedding", {}, {}, "needs the items' vectors"),
        ("embedding", {"output": "s"}, {"vectors": 2}, "vectors of 4 numbers, but the items'"),
        ("embedding", {"metric": "l2"}, {"vectors": 2}, "inner_product or cosine"),
        ("top_k", {}, {}, "is two tensors"),
        ("top_k", {"items": "v", "scores": "s"}, {}, "both must be"),
        ("raw", {"output": "s"}, {}, "has no option 'output'; it has none"),
    ],
)
def test_what_does_not_fit_is_rejected_with_the_reason(kind, options, more, says):
    outputs = {"s": np.zeros((2, 4), F), "v": np.zeros((2, 2), F)}
    with pytest.raises(ArtifactRejected, match=says):
        infer_output(kind, options, outputs, **{"items": 4, "vectors": 0, **more})


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 2), F), "vectors of 3 items, but the catalogue lists 4"),
        (np.zeros(4, F), "of the shape .items, d."),
        (np.zeros((4, 2), I), "must hold floats"),
        (np.full((4, 2), np.nan, F), "NaN or infinite"),
        (np.full((4, 2), 1e300), "NaN or infinite"),
        (np.array([[object()]]), "no .npy file"),
    ],
)
def test_wrong_item_vectors_are_rejected(tmp_path, array, says):
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(ArtifactRejected, match=says):
        read_item_vectors(tmp_path / "v.npy", 4)


def test_item_vectors_are_float32_whatever_the_file_has(tmp_path):
    np.save(tmp_path / "v.npy", np.asfortranarray(VECTORS.astype(np.float64)))
    vectors = read_item_vectors(tmp_path / "v.npy", 4)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, VECTORS)


works = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.sampled_from([F, I])))


@pytest.mark.contract("S4")
@settings(deadline=None)  # the machine may be busy
@given(works)
def test_joined_tensors_come_back_to_those_that_sent_them(shapes):
    given_ = [
        {"x": np.full((rows, width), i, dtype), "y": np.full(rows, i, F)}
        for i, (rows, width, dtype) in enumerate(shapes)
    ]
    back = {}
    batches = join(given_)
    for indices, inputs in batches:
        counts = [len(given_[i]["x"]) for i in indices]
        outputs = {"twice": inputs["x"] * 2, "y": inputs["y"]}
        back.update(zip(indices, part(outputs, counts), strict=True))
    assert len(batches) == len({(width, dtype) for _, width, dtype in shapes})
    assert sorted(back) == list(range(len(given_)))
    for i, work in enumerate(given_):
        assert np.array_equal(back[i]["twice"], work["x"] * 2)
        assert np.array_equal(back[i]["y"], work["y"])


def test_outputs_without_a_row_for_each_input_are_no_answer():
    with pytest.raises(InferenceError, match="for 3 rows"):
        part({"x": np.zeros(2)}, [1, 2])


SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1,))),
    (TensorSpec("y", "FP32", (-1, 2)),),
)


def test_tensors_are_put_in_the_models_order():
    x, n = np.zeros((3, 2), F), np.zeros(3, I)
    assert list(checked_tensors({"n": n, "x": x}, SIGNATURE)) == ["x", "n"]


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"n": None}, "inputs.n", "n is missing; the model takes x, n"),
        ({"z": np.zeros(3)}, "inputs.z", "z is unknown"),
        ({"x": np.zeros((3, 2))}, "inputs.x", "must be FP32, not FP64"),
        ({"x": np.zeros((3, 3), F)}, "inputs.x", r"must have the shape \[-1, 2\], not \[3, 3\]"),
        ({"x": np.zeros((2, 2), F)}, "inputs", "same number of rows"),
        ({"x": np.zeros((0, 2), F), "n": np.zeros(0, I)}, "inputs", "at least one"),
        ({"n": np.zeros((), I)}, "inputs", "same number of rows"),
    ],
)
def test_tensors_that_the_model_does_not_take_are_refused_by_name(changes, field, says):
    tensors = {"x": np.zeros((3, 2), F), "n": np.zeros(3, I), **changes}
    with pytest.raises(InvalidInput, match=says) as caught:
        checked_tensors({k: v for k, v in tensors.items() if v is not None}, SIGNATURE)
    assert caught.value.field == field
