import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import InvalidInput
from serving_app.core.features import FeatureLayout

LAYOUT = FeatureLayout(("age", "visits", "spend"))


@pytest.mark.contract("S7")
def test_a_mapping_is_ordered_by_the_declared_names_not_by_the_client():
    row = LAYOUT.row({"spend": 3.5, "age": 1, "visits": 2})
    assert row.dtype == np.float32
    assert row.tolist() == [1.0, 2.0, 3.5]


@pytest.mark.contract("S7")
def test_a_list_is_taken_in_the_declared_order():
    assert LAYOUT.row([1, 2.0, 3]).tolist() == [1.0, 2.0, 3.0]


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
    assert LAYOUT.row(shuffled).tobytes() == LAYOUT.row(list(values)).tobytes()
