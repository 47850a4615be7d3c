"""Requests as the clients write them, and as strangers do."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
from typing import Any

import json_numpy
import msgpack
import msgpack_numpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.serving.arrays import RequestError
from trainer.serving.wire import Form, ModalityConfig, dump, pack, parse, unpack


@pytest.fixture(scope="module")
def recorded(golden_n17):
    return json.loads((golden_n17 / "wire.json").read_text())


FORMS = {"n1.7_626af89": Form.MSGPACK_NUMPY, "n1.7-release": Form.NESTED}


def modality_config(key: str) -> ModalityConfig:
    others = dict.fromkeys(("sin_cos_embedding_keys", "mean_std_embedding_keys", "action_configs"))
    return ModalityConfig(delta_indices=[0], modality_keys=[key], **others)


@pytest.mark.parametrize("which", FORMS)
def test_upstreams_recorded_requests_are_read(recorded, which):
    request, form = unpack(bytes.fromhex(recorded[which]["get_action_request"]))
    observation = request["data"]["observation"]
    assert form is FORMS[which] and request["endpoint"] == "get_action"
    assert observation["video"]["front"].shape == (1, 1, 2, 2, 3) and observation["video"]["front"].dtype == np.uint8
    np.testing.assert_array_equal(observation["state"]["single_arm"], np.arange(5, dtype="<f4")[None, None])
    assert observation["language"] == {"annotation.human.task_description": [["pick the cube"]]}
    assert unpack(bytes.fromhex(recorded[which]["ping_request"])) == ({"endpoint": "ping"}, None)


@pytest.mark.parametrize("which", FORMS)
def test_replies_have_upstreams_recorded_bytes(recorded, which):
    actions = [{"single_arm": np.ones((1, 2, 5), np.float32)}, {}]
    assert pack(actions, FORMS[which]).hex() == recorded[which]["get_action_reply"]
    config = {"state": modality_config("single_arm")}
    assert pack(config, FORMS[which]).hex() == recorded[which]["modality_config_reply"]
    assert pack({"error": "x"}, FORMS[which]).hex() == recorded[which]["error_reply"]


def test_an_n15_modality_config_is_json_text():
    [found] = msgpack.unpackb(pack({"video": modality_config("front")}, Form.FLAT)).values()
    assert found["__ModalityConfig_class__"]
    assert json.loads(found["as_json"]) == {"delta_indices": [0], "modality_keys": ["front"]}


def npy(array: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    np.save(file, array)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def packed_by(value: Any, default: Any = None) -> bytes:
    """``value`` in msgpack."""
    packed = msgpack.packb(value, default=default)
    assert packed is not None
    return packed


ARRAYS = [
    np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([["pick"]]),
    np.zeros((0, 3), np.float16),
    np.array(1.5, ">f8"),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda each: each.dtype.str)
def test_arrays_arrive_as_they_were_sent(array):
    packed = packed_by({"npy": npy(array), "parts": array}, msgpack_numpy.encode)
    written = json.dumps({"json": array}, default=json_numpy.default).encode()
    for found in [*unpack(packed)[0].values(), *parse(written).values()]:
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


def test_the_libraries_of_the_clients_read_the_replies():
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    for form, hook in ((Form.MSGPACK_NUMPY, msgpack_numpy.decode), (Form.FLAT, None)):
        found = msgpack.unpackb(pack({"action.x": sent}, form), object_hook=hook)["action.x"]
        found = found if form is Form.MSGPACK_NUMPY else np.load(io.BytesIO(found["as_npy"]), allow_pickle=False)
        np.testing.assert_array_equal(found, sent)
    np.testing.assert_array_equal(json_numpy.loads(dump({"action.x": sent}))["action.x"], sent)


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("it was unpickled",))


def saved_by_torch() -> bytes:
    file = io.BytesIO()
    torch.save({"endpoint": "ping"}, file)
    return file.getvalue()


def header(shape: str, descr: str = "'|u1'") -> dict[str, Any]:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return {"__ndarray_class__": True, "as_npy": b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text}


def objects() -> dict[str, Any]:
    return npy(np.array([Bomb()], dtype=object))


def parts(**changes: Any) -> dict[Any, Any]:
    return {b"nd": True, b"type": "|u1", b"kind": b"", b"shape": [2], b"data": b"ab"} | {
        name.encode(): value for name, value in changes.items()
    }


HOSTILE: dict[str, tuple[bytes, str]] = {
    "torch.save": (saved_by_torch(), "can run code"),
    "pickle": (pickle.dumps({"endpoint": "ping"}), "can run code"),
    "old pickle": (pickle.dumps({"endpoint": "ping"}, 0), "not readable"),
    "objects in npy": (packed_by({"a": objects()}), "unpickled"),
    "objects in msgpack_numpy": (packed_by({"a": parts(kind=b"O", type="|O")}), "unpickled"),
    "object dtype": (packed_by({"a": parts(type="|O")}), "unpickled"),
    "structure": (packed_by({"a": parts(kind=b"V", type=[["a", "<f4"]])}), "unpickled"),
    "a petabyte in npy": (packed_by({"a": header("(1000000, 1000000, 1000)")}), "bytes; 0 came"),
    "a petabyte in parts": (packed_by({"a": parts(shape=[1_000_000, 1_000_000])}), "bytes; 2 came"),
    "negative shape": (packed_by({"a": parts(shape=[-1, -2])}), "none negative"),
    "true as a size": (packed_by({"a": parts(shape=[True, 2])}), "whole numbers"),
    "many axes": (packed_by({"a": parts(shape=[1] * 40)}), "at most"),
    "wide text dtype": (packed_by({"a": parts(type="<U99999999")}), "dtype"),
    "code in the header": (packed_by({"a": header("__import__('os').abort()")}), "np.save"),
    "deep header": (packed_by({"a": header("(" * 900 + ")" * 900)}), "np.save"),
    "long header": (packed_by({"a": header("(" + "1," * 5000 + ")")}), "np.save"),
    "nested dtype": (packed_by({"a": header("(1,)", "[('a', 'O')]")}), "objects are not read"),
    "deep lists": (b"\x91" * 100_000 + b"\xc0", "not readable"),
    "deep maps": (packed_by({"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}), "too deep"),
    "promised list": (b"\xdd\xff\xff\xff\xff", "not readable"),
    "many lists": (packed_by([[[[]] * 1000] * 1000] * 10), "too many"),
    "extension": (packed_by(msgpack.ExtType(1, b"abc")), "not readable"),
    "a list": (packed_by([1]), "is a map"),
    "number as a key": (packed_by({1: 2}), "texts"),
    "nothing": (b"", "not readable"),
    "cut short": (packed_by({"endpoint": "ping"})[:-1], "not readable"),
    "65 MiB": (b"\xc6\x04\x10\x00\x00" + b"x" * (65 * 1024**2), "at most"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_refused_in_words_and_takes_no_memory(name):
    message, words = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match=words):
            unpack(message)
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024**2 + 3 * len(message)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (pickle.dumps({}), "not read"),
        (b"[" * 100_000, "too many"),
        (b"[" * 9_000, "not JSON|is a map|too deep"),
        (b"[1]", "is a map"),
        (b'{"a": {"__numpy__": "!", "dtype": "<f4", "shape": [1]}}', "base64"),
        (b'{"a": {"__numpy__": "AAAA", "dtype": "O", "shape": [1]}}', "unpickled"),
        (b'{"a": {"__numpy__": "AAAA", "dtype": "<f4", "shape": [9999999, 9999999]}}', "3 came"),
        (b'{"a": {"__numpy__": "AAAA", "dtype": [["a", "O"]], "shape": [1]}}', "dtype"),
        (b"\xff\xfe", "not JSON"),
        (b"1" * 5000, "not JSON"),
    ],
)
def test_a_hostile_body_is_refused_in_words(body, words):
    with pytest.raises(RequestError, match=words):
        parse(body)


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9)
KEYS = st.sampled_from(
    ["__ndarray_class__", "as_npy", b"nd", b"type", b"kind", b"shape", b"data", "__numpy__", "dtype"]
)
DOCUMENTS = st.recursive(
    LEAVES | st.binary(max_size=40) | st.just(npy(np.zeros(2))),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), each, max_size=5),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS.map(packed_by) | st.binary(max_size=200), st.integers(0, 200), st.integers(0, 255))
def test_any_message_is_read_or_refused(message, place, byte):
    changed = bytearray(message)
    if changed:
        changed[place % len(changed)] = byte
    for each in (message, bytes(changed)):
        for read in (unpack, parse):
            try:
                read(each)
            except RequestError as error:
                assert str(error)
