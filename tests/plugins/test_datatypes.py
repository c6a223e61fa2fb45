import numpy as np
import pytest

from plugins import TensorSpec
from plugins.datatypes import DTYPES, datatype_of


@pytest.mark.parametrize("name", DTYPES)
def test_a_datatype_and_its_dtype_name_each_other(name):
    assert datatype_of(DTYPES[name]) == name
    assert TensorSpec("x", name, (-1,)).dtype == DTYPES[name]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("float32", "FP32"),
        ("string", "BYTES"),
        (np.dtype("U3"), "BYTES"),
        (np.dtype("S3"), "BYTES"),
        (np.dtype(">f4"), "FP32"),
        ("bfloat16", "BFLOAT16"),
        ("complex64", "COMPLEX64"),
    ],
)
def test_what_frameworks_call_a_datatype_is_translated(given, named):
    assert datatype_of(given) == named
