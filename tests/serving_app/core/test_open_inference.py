"""Bodies of the Open Inference Protocol: what is sent is what is read, and rubbish is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plugins import InferenceError, InvalidInput, TensorSpec
from serving_app.core.infer_response import InferResponse, datatype_of
from serving_app.core.open_inference import (
    DATATYPES,
    OutputWish,
    read_raw_request,
    read_request,
)

pytestmark = pytest.mark.contract("A6")

NUMBERS = [name for name in DATATYPES if name != "BYTES"]


def body(*inputs, tail=b"", **more):
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + tail, str(len(head))


@st.composite
def tensors(draw, finite=False):
    datatype = draw(st.sampled_from([*NUMBERS, "BYTES"]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if datatype == "BYTES":
        n = math.prod(shape)
        texts = draw(st.lists(st.text("aé\0€😀", max_size=5), min_size=n, max_size=n))
        values = np.empty(n, dtype=object)
        values[:] = [text.encode() for text in texts]
        return datatype, values.reshape(shape)
    elements = {"allow_nan": False, "allow_infinity": False} if finite else None
    if DATATYPES[datatype].kind != "f":
        elements = None
    return datatype, draw(hnp.arrays(DATATYPES[datatype], shape, elements=elements))


def raw_of(datatype, array):
    if datatype == "BYTES":
        return b"".join(len(v).to_bytes(4, "little") + v for v in array.ravel())
    return array.tobytes()


@given(st.lists(tensors(), min_size=1, max_size=4))
def test_binary_inputs_are_read_bit_by_bit(given):
    parts = [raw_of(*each) for each in given]
    sent, length = body(
        *(
            {
                "name": f"x{i}",
                "datatype": datatype,
                "shape": array.shape,
                "parameters": {"binary_data_size": len(parts[i])},
            }
            for i, (datatype, array) in enumerate(given)
        ),
        tail=b"".join(parts),
    )
    request = read_request(sent, length)
    for i, (datatype, array) in enumerate(given):
        read = request.inputs[f"x{i}"]
        assert request.datatypes[f"x{i}"] == datatype
        assert read.shape == array.shape
        assert raw_of(datatype, read) == parts[i]


@given(tensors(finite=True), st.booleans())
def test_json_inputs_are_read_flat_or_nested(given, nested):
    datatype, array = given
    flat = [v.decode() for v in array.ravel()] if datatype == "BYTES" else array.ravel().tolist()
    data = np.array(flat, dtype=object).reshape(array.shape).tolist() if nested else flat
    if array.ndim == 0:
        data = flat
    sent, _ = body({"name": "x", "datatype": datatype, "shape": array.shape, "data": data})
    if datatype == "FP16":
        with pytest.raises(InvalidInput, match="binary"):
            read_request(sent, None)
        return
    read = read_request(sent, None).inputs["x"]
    assert read.shape == array.shape
    assert read.tolist() == array.tolist()


@given(tensors(finite=True), st.booleans(), st.text(max_size=10))
def test_an_answer_can_be_read_back(given, binary, id_):
    datatype, array = given
    answer = InferResponse("m", "3", {"y": array}, id=id_)
    sent, length = answer.encoded([OutputWish("y", binary)])
    head = json.loads(sent[:length])
    assert head["model_name"] == "m"
    assert head["model_version"] == "3"
    assert head.get("id", "") == id_
    (output,) = head["outputs"]
    assert output["datatype"] == datatype
    assert output["shape"] == list(array.shape)
    if binary:
        assert sent[length:] == raw_of(datatype, array)
        assert output["parameters"] == {"binary_data_size": len(sent) - length}
    else:
        assert length is None
        expected = array.ravel().tolist()
        if datatype == "BYTES":
            expected = [v.decode() for v in expected]
        assert output["data"] == expected


def test_bf16_is_widened():
    raw = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    sent, length = body(
        {
            "name": "x",
            "datatype": "BF16",
            "shape": [2],
            "parameters": {"binary_data_size": 4},
        },
        tail=raw,
    )
    assert read_request(sent, length).inputs["x"].tolist() == [1.5, -2.0]


def test_classification_names_the_best_of_each_row():
    answer = InferResponse(
        "m",
        "1",
        {"scores": np.array([[0.1, 0.9, 0.9], [3, 2, 1]])},
        labels={"scores": ["a", "b", "c"]},
    )
    sent, _ = answer.encoded([OutputWish("scores", classes=2)])
    (output,) = json.loads(sent)["outputs"]
    assert output["datatype"] == "BYTES"
    assert output["shape"] == [2, 2]
    assert output["data"] == [
        "0.900000:1:b",
        "0.900000:2:c",
        "3.000000:0:a",
        "2.000000:1:b",
    ]


def test_outputs_are_wished_for_by_name_and_order():
    sent, _ = body(
        {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]},
        outputs=[{"name": "b"}, {"name": "a", "parameters": {"binary_data": False}}],
        parameters={"binary_data_output": True},
    )
    request = read_request(sent, None)
    assert request.wishes(["a", "b"]) == (OutputWish("b", True), OutputWish("a", False))
    with pytest.raises(InvalidInput, match="unexpected inference output 'b'"):
        request.wishes(["a"])
    plain, _ = body({"name": "x", "datatype": "FP32", "shape": [1], "data": [1]})
    assert read_request(plain, None).wishes(["a", "b"]) == (OutputWish("a"), OutputWish("b"))


X = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"", "parse"),
        (b"[]", "parse"),
        (b"\xff", "parse"),
        (b"[" * 100_000, "parse"),
        (body()[0], "no inputs"),
        (body(X, X)[0], "twice"),
        (body({**X, "datatype": "FP31"})[0], "unknown datatype 'FP31'"),
        (body({**X, "shape": [-1]})[0], "0 or more"),
        (body({**X, "shape": [1 << 20, 1 << 20]})[0], "too large"),
        (body({**X, "shape": [0, 1 << 62, 1 << 62], "data": []})[0], "too large"),
        (body({**X, "shape": [3]})[0], "needs 3, got 2"),
        (body({**X, "data": ["a", "b"]})[0], "must be numbers, not str"),
        (body({**X, "data": None})[0], "no data"),
        (body({**X, "datatype": "INT8", "data": [1, 300]})[0], "outside the range of INT8"),
        (body({**X, "data": [1, 1e300]})[0], "outside the range of FP32"),
        (body({**X, "datatype": "BOOL", "data": [True, 1]})[0], "true or false, not int"),
        (body({**X, "datatype": "FP16"})[0], "binary"),
        (body({**X, "parameters": {"binary_data_size": 8}})[0], "both"),
        (body(X, parameters={"triton_x": 1})[0], "reserved"),
        (body(X, parameters={"binary_data_output": 1})[0], "true or false"),
        (body(X, outputs=[{"name": "y", "parameters": {"classification": -1}}])[0], "classes"),
    ],
)
def test_wrong_json_is_refused_with_a_reason(wrong, words):
    with pytest.raises(InvalidInput, match=words):
        read_request(wrong, None)


BINARY = {"name": "x", "datatype": "FP32", "shape": [2]}


@pytest.mark.parametrize(
    ("size", "tail", "datatype", "words"),
    [
        (8, b"\0" * 7, "FP32", "only 7 are left"),
        (7, b"\0" * 7, "FP32", "expecting 8 bytes, got 7"),
        (8, b"\0" * 9, "FP32", "unexpected additional input data"),
        (-1, b"", "FP32", "whole number of bytes"),
        (4, b"\x09\0\0\0", "BYTES", "incomplete string"),
        (3, b"\x09\0\0", "BYTES", "incomplete string"),
        (4, b"\0\0\0\0", "BYTES", "expecting 2 strings for input 'x', got 1"),
    ],
)
def test_wrong_binary_data_is_refused_with_a_reason(size, tail, datatype, words):
    described = {**BINARY, "datatype": datatype, "parameters": {"binary_data_size": size}}
    sent, length = body(described, tail=tail)
    with pytest.raises(InvalidInput, match=words):
        read_request(sent, length)


@pytest.mark.parametrize("length", ["", "x", "-1", "0", "9999", "٣", "1" * 30])
def test_a_wrong_json_length_is_refused(length):
    with pytest.raises(InvalidInput, match=r"Inference-Header|header size"):
        read_request(body(X)[0], length)


@given(st.data())
def test_a_mutated_body_is_read_or_refused(data):
    valid, length = body({**BINARY, "parameters": {"binary_data_size": 8}}, X | {"name": "y"})
    whole = bytearray(valid + b"\0" * 8)
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    sent = bytes(whole[:cut])
    try:
        request = read_request(sent, data.draw(st.sampled_from([length, None])))
    except InvalidInput:
        return
    assert request.inputs


def test_nan_is_refused_in_json_and_sent_in_binary():
    answer = InferResponse("m", "1", {"y": np.array([np.nan])})
    with pytest.raises(InvalidInput, match="binary"):
        answer.encoded([OutputWish("y")])
    sent, length = answer.encoded([OutputWish("y", binary=True)])
    assert np.isnan(np.frombuffer(sent[length:])[0])


def test_a_type_without_a_name_is_an_error():
    with pytest.raises(InferenceError, match="complex"):
        datatype_of(np.array([1j]))


def test_classes_of_whole_numbers_nan_and_nothing():
    answer = InferResponse(
        "m",
        "1",
        {
            "whole": np.array([[5, 2**40]]),
            "odd": np.array([[np.nan, 1, np.inf]], np.float32),
            "none": np.zeros((0, 3), np.float32),
        },
    )
    wishes = [OutputWish(name, classes=9) for name in ("whole", "odd", "none")]
    whole, odd, none = json.loads(answer.encoded(wishes)[0])["outputs"]
    assert whole["data"] == ["1099511627776:1", "5:0"]
    assert odd["data"] == ["inf:2", "1.000000:1", "nan:0"]
    assert (none["shape"], none["data"]) == ([0, 3], [])
    with pytest.raises(InvalidInput, match="output of numbers"):
        InferResponse("m", "1", {"y": np.array(["a"])}).encoded([OutputWish("y", classes=1)])


def test_strings_that_are_no_text_need_binary_data():
    values = np.array([b"\xff"], dtype=object)
    answer = InferResponse("m", "1", {"y": values})
    with pytest.raises(InvalidInput, match="no UTF-8"):
        answer.encoded([OutputWish("y")])
    sent, length = answer.encoded([OutputWish("y", binary=True)])
    assert sent[length:] == b"\x01\0\0\0\xff"


@pytest.mark.parametrize(
    ("datatype", "shape", "sent", "values"),
    [
        ("FP32", (-1, 2), np.array([1, 2], "<f4").tobytes(), [[1.0, 2.0]]),
        ("INT16", (-1, -1, 2), np.array([1, 2, 3, 4], "<i2").tobytes(), [[[1, 2], [3, 4]]]),
        ("BYTES", (-1, -1), b"\x01\0\0\0a\0\0\0\0", [[b"a", b""]]),
        ("BYTES", (-1,), b"\x01\0\0\0a", [b"a"]),
    ],
)
def test_a_raw_body_is_one_row_of_the_only_input(datatype, shape, sent, values):
    request = read_raw_request(sent, TensorSpec("x", datatype, shape))
    assert request.inputs["x"].tolist() == values
    assert request.binary_outputs


@pytest.mark.parametrize(
    ("shape", "sent", "words"),
    [((-1, 2), b"\0" * 7, "expecting 8 bytes, got 7"), ((-1, -1, -1), b"", "several variable")],
)
def test_a_raw_body_of_another_size_is_refused(shape, sent, words):
    with pytest.raises(InvalidInput, match=words):
        read_raw_request(sent, TensorSpec("x", "FP32", shape))


@given(st.binary(max_size=40), st.sampled_from(["BYTES", "FP64", "BOOL"]))
def test_any_raw_body_is_read_or_refused(sent, datatype):
    try:
        request = read_raw_request(sent, TensorSpec("x", datatype, (-1, -1)))
    except InvalidInput:
        return
    assert len(request.inputs["x"]) == 1
