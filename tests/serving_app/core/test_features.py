import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import ArtifactRejected, InvalidInput, Signature, TensorSpec
from serving_app.core.features import FeatureLayout, _are_plain, simple_layout

LAYOUT = FeatureLayout(("age", "visits", "spend"))


@pytest.mark.contract("S7")
def test_a_mapping_is_ordered_by_the_declared_names_not_by_the_client():
    (row,) = LAYOUT.row({"spend": 3.5, "age": 1, "visits": 2})
    assert row.dtype == np.float32
    assert row.tolist() == [1.0, 2.0, 3.5]


@pytest.mark.contract("S7")
def test_a_list_is_taken_in_the_declared_order():
    (row,) = LAYOUT.row([1, 2.0, 3])
    assert row.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.contract("S7")
@pytest.mark.parametrize(
    ("features", "field", "says"),
    [
        ({"age": 1, "visits": 2}, "features.spend", "Missing features: spend"),
        ({"age": 1, "visits": 2, "spend": 3, "hat": 4}, "features.hat", "Unknown features: hat"),
        ([1, 2], "features", "has 2 values, but the model takes 3"),
        ([1, 2, 3, 4], "features", "has 4 values"),
        ([1, "2", 3], "features.visits", "must be a number, not str"),
        ([1, None, 3], "features.visits", "must be a number, not NoneType"),
        ([1, True, 3], "features.visits", "must be a number, not bool"),
        ([1, [2], 3], "features.visits", "must be a number, not list"),
        ({"age": math.nan, "visits": 2, "spend": 3}, "features.age", "NaN"),
        ([1, 2, math.inf], "features.spend", "must be finite"),
        ([1, -math.inf, 2], "features.visits", "must be finite"),
        ([1e39, 2, 3], "features.age", "32-bit"),
        ([10**400, 2, 3], "features.age", "32-bit"),
    ],
)
def test_what_is_wrong_is_named(features, field, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        LAYOUT.row(features)
    assert caught.value.field == field


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(values=st.tuples(finite, finite, finite), order=st.permutations(LAYOUT.names))
def test_mapping_in_any_order_and_list_give_the_same_row(values, order):
    by_name = dict(zip(LAYOUT.names, values, strict=True))
    shuffled = {name: by_name[name] for name in order}
    assert LAYOUT.row(shuffled)[0].tobytes() == LAYOUT.row(list(values))[0].tobytes()


def test_rows_become_the_only_input():
    rows = [LAYOUT.row([1, 2, 3]), LAYOUT.row([4, 5, 6])]
    (tensor,) = LAYOUT.tensors(rows).values()
    assert tensor.dtype == np.float32
    assert tensor.tolist() == [[1, 2, 3], [4, 5, 6]]


def signature(*inputs):
    return Signature(inputs, (TensorSpec("scores", "FP32", (-1, 9)),))


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([("a", "FP32", (-1, 3)), ("b", "FP32", (-1, 3))], "must take one input; it takes a, b"),
        ([("a", "INT64", (-1, 3))], "The input a is INT64"),
        ([("a", "FP32", (-1, 3, 1))], "must be FP32 with the shape"),
        ([("a", "FP32", (4, 3))], "only batches of 4 rows"),
        ([("a", "FP32", (-1, 2))], "takes 2 features, but 3 feature names"),
    ],
)
def test_a_list_of_names_fits_one_input_of_floats_only(inputs, says):
    with pytest.raises(ArtifactRejected, match=says):
        simple_layout(LAYOUT.names, signature(*(TensorSpec(*given) for given in inputs)))


def test_the_input_is_called_as_the_model_calls_it():
    layout = simple_layout(LAYOUT.names, signature(TensorSpec("x", "FP32", (-1, -1))))
    assert list(layout.tensors([layout.blank()])) == ["x"]


@given(
    st.lists(
        st.one_of(
            st.floats(),
            st.integers(),
            st.sampled_from(
                [3.4028234663852886e38, 3.5e38, 10**400, True, None, "1", float("nan")]
            ),
        ),
        max_size=8,
    )
)
def test_the_short_check_lets_through_what_each_value_would_pass(values):
    largest = 3.4028234663852886e38
    good = [type(v) in {int, float} and -largest <= v <= largest for v in values]
    assert _are_plain(values) == (bool(values) and all(good))
