"""The fast readers against the strict one: what they take means the same, and what they leave is explained."""

from __future__ import annotations

import io
import json
import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipmodel.errors import InputError
from service.problems import Problem, ProblemKind
from service.protocols import arrays
from service.protocols.arrays import read_npy_inputs
from service.protocols.bodies import parse
from service.protocols.v1_schemas import PredictRequest
from service.protocols.v2 import _read_fast, read_infer
from service.protocols.v2_schemas import InferRequest

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
anything = st.none() | st.booleans() | st.text(max_size=5) | numbers | st.lists(numbers, max_size=2)
rows = st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=3)
options = st.fixed_dictionaries(
    {},
    optional={
        "norm": st.sampled_from(["1", "2", "inf", "[", "3"]),
        "epsilon": numbers,
        "tighten": st.booleans(),
        "portable": st.booleans(),
        "other": anything,
    },
)


@given(inputs=rows | st.lists(st.lists(anything, max_size=3), max_size=3) | anything, rest=options)
def test_json_is_read_as_the_strict_reader_reads_it(inputs, rest):
    """Whatever the fast reader takes, the strict one takes, with the same numbers to the bit."""
    body = json.dumps({"inputs": inputs, **rest}).encode()
    found = arrays._read_fast(body, 2)
    if found is not None:
        strict = parse(PredictRequest, body)
        assert found[0].tolist() == strict.inputs
        assert found[1].model_dump() == strict.model_dump(exclude={"inputs"})


def test_the_usual_request_is_read_fast():
    body = json.dumps({"inputs": [[0.1, -2], [1e-300, 3]], "norm": "inf", "epsilon": 0.5, "portable": True})
    inputs, asked = arrays._read_fast(body.encode(), 2)
    assert inputs.tolist() == [[0.1, -2.0], [1e-300, 3.0]]
    assert (asked.norm, asked.epsilon, asked.portable, asked.tighten) == ("inf", 0.5, True, False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [[1, [2]]]}',
        b'{"inputs": [[1], [2, 3]]}',
        b'{"inputs": [[1, 2]], "inputs": [[3, 4]]}',
        b'\xef\xbb\xbf{"inputs": [[1, 2]]}',
        b'{"inputs": [[1, true]]}',
        b'{"inputs": [[1, 1e400]]}',
        b'{"inputs": [[1, 2]], "epsilon": []}',
        b'{"inputs": [[1, 2]], "norm": "["}',
        b'[{"inputs": [[1, 2]]}]',
        b'{"inputs": [[1, 2]]} {}',
        b'{"inputs": 1}',
        b"",
    ],
)
def test_what_is_unusual_is_left_to_the_strict_reader(body):
    assert arrays._read_fast(body, 2) is None


def npy(array, **how):
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_what_was_saved(dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3) / 7, dtype=dtype, order=order)
    inputs, asked = read_npy_inputs(npy(array), {"norm": "1", "epsilon": "0.25", "tighten": "true"}, 10)
    assert (inputs == array).all()
    assert (asked.norm, asked.epsilon, asked.tighten) == ("1", 0.25, True)


def headed(header, data=b""):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def described(descr, shape, data=b""):
    return headed(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n", data)


GOOD = npy(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "cannot be read as npy"),
        (b"\x93NUMPY", "cannot be read as npy"),
        (GOOD[:20], "cannot be read as npy"),
        (GOOD[:-1], "47 bytes of numbers; its header announces 48"),
        (GOOD + b"x", "49 bytes of numbers; its header announces 48"),
        (GOOD.replace(b"(2, 3)", b"(2,-3)"), "no array has its shape"),
        (GOOD.replace(b"(2, 3)", b"(9**9)"), "cannot be read as npy"),
        (npy(np.zeros(2, dtype="i4")), "float32 and float64 are accepted"),
        (npy(np.zeros(2, dtype="f2")), "float32 and float64 are accepted"),
        (npy(np.array([{}], dtype=object), allow_pickle=True), "float32 and float64 are accepted"),
        (npy(np.zeros(2, dtype=[("a", "f8")])), "float32 and float64 are accepted"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000, "cannot be read as npy"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{}", "cannot be read as npy"),
        (b"\x93NUMPY\x1c\x00" + GOOD[8:], "version 28.0 of the format is unknown"),
        (headed("("), "cannot be read as npy"),
        (headed("-" * 9000 + "1"), "its header is not understood"),
        (headed(" x\n y"), "cannot be read as npy"),
        (headed("{{}}"), "cannot be read as npy"),
        (headed("{1: 2, 'descr': 3}"), "cannot be read as npy"),
        (described("()", "()"), "cannot be read as npy"),
        (described("'<f8'", "(-1, -2)", bytes(16)), "no array has its shape"),
        (described("'<f8'", "(True,)", bytes(8)), "no array has its shape"),
        (described("'<f8'", f"(0, {2**70})"), "no array has its shape"),
        (described("'<f8'", f"({10**4000}, {10**4000})"), "no array has its shape"),
        (described("'<f8'", f"({'1,' * 65})", bytes(8)), "no array has its shape"),
    ],
)
def test_npy_that_is_none(body, reason):
    with pytest.raises(Problem) as caught:
        read_npy_inputs(body, {}, 10)
    assert caught.value.kind is ProblemKind.NOT_AN_ARRAY
    assert reason in caught.value.detail


@pytest.mark.parametrize("parameters", [{"norm": "3"}, {"epsilon": "nan"}, {"epsilon": "x"}, {"other": "1"}])
def test_options_of_npy_that_are_not_accepted(parameters):
    with pytest.raises(Problem) as caught:
        read_npy_inputs(GOOD, parameters, 10)
    assert caught.value.kind is ProblemKind.INVALID_INPUT
    assert next(iter(parameters)) in caught.value.detail


def infer(data, shape=(1, 2), datatype="FP64", **rest):
    tensor = {"name": "x", "shape": list(shape), "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor], **rest}).encode()


@given(data=st.lists(anything, max_size=4), datatype=st.sampled_from(["FP32", "FP64", "INT8"]))
def test_tensors_are_read_as_the_strict_reader_reads_them(data, datatype):
    body = infer(data, (len(data),), datatype, id="[")
    if _read_fast(body) is not None:
        request, found = read_infer(body, None)
        strict = parse(InferRequest, body)
        wanted = np.array(strict.inputs[0].data, dtype=float)
        with np.errstate(over="ignore"):
            wanted = wanted.astype("f4" if datatype == "FP32" else "f8")
        assert (found == wanted).all()
        assert request.id == strict.id


def test_a_bracket_that_is_escaped_hides_no_other():
    body = infer([[0.5, 0.25]], (2, 1)).replace(b'"x"', b'"\\u005b"')
    assert _read_fast(body) is None
    with pytest.raises(InputError, match=r"shape \[1, 2\]"):
        read_infer(body, None)


def test_the_usual_tensor_is_read_fast():
    body = infer([0.1, 0.2], datatype="FP32", outputs=[{"name": "label"}], parameters={"epsilon": 0.5})
    request, found = _read_fast(body)
    assert found.tolist() == np.array([0.1, 0.2], dtype=np.float32).tolist()
    assert request.parameters.epsilon == 0.5
    assert request.outputs[0].name == "label"


@pytest.mark.parametrize("nested", [[[1.5, 2]], [1.5, 2]])
def test_numbers_may_be_nested_as_the_shape_says(nested):
    assert read_infer(infer(nested), None)[1].tolist() == [[1.5, 2.0]]


@pytest.mark.parametrize(
    ("body", "length", "reason"),
    [
        (infer([1, 2, 3]), None, "3 numbers; shape [1, 2] takes 2"),
        (infer([[1], [2]]), None, "shape [2, 1]; its own 'shape' is [1, 2]"),
        (infer([[1], [2, 3]]), None, "not of shape"),
        (infer([1, True]), None, "no number"),
        (infer([1, "2"]), None, "no number"),
        (infer([1, None]), None, "no number"),
        (infer([1, 2]) + b"1234", len(infer([1, 2])), "4 bytes follow it"),
        (infer(None), None, "either 'data' or bytes"),
    ],
)
def test_tensors_that_do_not_fit(body, length, reason):
    with pytest.raises(InputError, match=r"^inputs(: | )") as caught:
        read_infer(body, length)
    assert reason in str(caught.value)


def binary(array, size=None, **rest):
    size = array.nbytes if size is None else size
    tensor = {"name": "x", "shape": list(array.shape), "datatype": "FP32"}
    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": size}}], **rest}).encode()
    return header + array.tobytes(), len(header)


def test_binary_tensors_are_their_bytes():
    array = np.random.default_rng(0).normal(size=(3, 4)).astype("<f4")
    assert read_infer(*binary(array))[1].tobytes() == array.tobytes()


@pytest.mark.parametrize(("size", "cut"), [(44, 0), (52, 0), (48, 1), (47, 1), (0, 0), (2**62, 0)])
def test_binary_tensors_of_another_length(size, cut):
    body, length = binary(np.zeros((3, 4), "<f4"), size)
    with pytest.raises(InputError, match="bytes follow"):
        read_infer(body[: len(body) - cut], length)


def test_headers_longer_than_the_body():
    with pytest.raises(Problem, match="has 2 bytes"):
        read_infer(b"{}", 3)


@pytest.mark.parametrize("shape", [(1,) * 33, (2**70, 0), (10**4000, 10**4000)])
def test_shapes_that_no_array_has(shape):
    with pytest.raises(Problem, match="shape"):
        read_infer(infer([], shape), None)


def test_shapes_that_are_too_large_though_they_are_empty():
    with pytest.raises(InputError, match="too large"):
        read_infer(infer([], (2**62, 2**62, 0)), None)
    with pytest.raises(InputError, match="too large"):
        read_npy_inputs(described("'<f8'", f"(0, {2**62}, {2**62})"), {}, 10)


def test_shapes_whose_product_is_huge():
    body = infer([1, 2], (2**62, 2**62))
    with pytest.raises(InputError, match="2 numbers"):
        read_infer(body, None)
    assert math.prod([2**62, 2**62]) > 2**63


JSON = {"Content-Type": "application/json"}


def test_compression_is_undone_within_the_limit(client):
    body = json.dumps({"inputs": [[0.5, 0.25]]}).encode()
    plain = client.post("/v1/models/two-moons/predict", content=body, headers=JSON).json()
    gzip = zlib.compressobj(wbits=31)
    for encoding, sent in (
        ("gzip", gzip.compress(body) + gzip.flush()),
        ("deflate", zlib.compress(body)),
        ("identity", body),
    ):
        headers = JSON | {"Content-Encoding": encoding}
        answer = client.post("/v1/models/two-moons/predict", content=sent, headers=headers)
        assert answer.json() == plain


@pytest.mark.parametrize(
    ("sent", "kind", "reason"),
    [
        (zlib.compress(b" " * 10_000_000), ProblemKind.BODY_TOO_LARGE, "limit of 100000 bytes"),
        (zlib.compress(b'{"inputs": [[1, 2]]}')[:-3], ProblemKind.NOT_COMPRESSED, "truncated"),
        (zlib.compress(b'{"inputs": [[1, 2]]}') + b"x", ProblemKind.NOT_COMPRESSED, "other bytes follow"),
        (b'{"inputs": [[1, 2]]}', ProblemKind.NOT_COMPRESSED, "cannot be decompressed"),
    ],
)
def test_compressed_bodies_that_are_refused(client, sent, kind, reason):
    headers = JSON | {"Content-Encoding": "gzip"}
    answer = client.post("/v1/models/two-moons/predict", content=sent, headers=headers)
    assert answer.status_code == kind.status
    assert answer.json()["type"] == kind.uri
    assert reason in answer.json()["detail"]
