"""What ``bench.hostile`` sends: a table of requests that are to do harm, and real ones that were changed at random."""

from __future__ import annotations

import io
import json
import pickle
import socket
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import torch

from bench.hostile_client import Robot, Sent
from trainer.serving.arrays import LARGEST_REQUEST
from trainer.serving.over_http import LARGEST_BODY, MAX_CONNECTIONS
from trainer.serving.over_zmq import LARGEST_MESSAGE
from trainer.serving.wire import Form, _written, dump, pack

ZMQ, HTTP = "ZMQ", "HTTP"


def hostile(robot: Robot) -> Iterator[Sent]:
    """The table."""
    for what, message in _messages(robot).items():
        yield Sent(ZMQ, what, lambda message=message: robot.zmq(message))
    oversize = b"\xc6" + (LARGEST_MESSAGE + 1).to_bytes(4, "big") + bytes(LARGEST_MESSAGE + 1)
    yield Sent(ZMQ, f"{LARGEST_MESSAGE // 1024**2} MiB and more", lambda: robot.disconnected(oversize))
    for what, body in _bodies().items():
        yield Sent(HTTP, what, lambda body=body: robot.post(body))
    for what, sent in _heads().items():
        yield Sent(HTTP, what, lambda sent=sent: robot.http(sent, end=True))
    slow: list[socket.socket] = []

    def beside_slow_ones() -> Any:
        for _ in range(2 * MAX_CONNECTIONS):
            slow.append(socket.create_connection(("127.0.0.1", robot.http_port)))
            slow[-1].sendall(b"POST /act HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
        try:
            return robot.post(dump({"observation": robot.flat}))
        finally:
            for each in slow:
                each.close()

    yield Sent(HTTP, f"a robot's, beside {2 * MAX_CONNECTIONS} clients that send half a request", beside_slow_ones)


def _messages(robot: Robot) -> dict[str, bytes]:
    config = robot.policy.data_config
    camera, joint = config.video[0], config.keys("state")[0]
    saved, objects = io.BytesIO(), io.BytesIO()
    torch.save({"endpoint": "ping"}, saved)
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)

    def observed(part: str, key: str, value: Any) -> bytes:
        observation = {**robot.nested, part: {**robot.nested[part], key: value}}
        return pack(
            {"endpoint": "get_action", "data": {"observation": observation, "options": None}}, Form.MSGPACK_NUMPY
        )

    def part(**changes: Any) -> dict[Any, Any]:
        whole = {b"nd": True, b"type": "|u1", b"kind": b"", b"shape": [2], b"data": b"ab"}
        return whole | {name.encode(): value for name, value in changes.items()}

    def options(**given: Any) -> bytes:
        return pack(robot.request(**given), Form.MSGPACK_NUMPY)

    first = {"rtc_previous_actions": robot.actions, "rtc_executed_steps": 4}
    width = robot.nested["state"][joint].shape[-1]
    return {
        "torch.save": saved.getvalue(),
        "pickle": pickle.dumps({"endpoint": "ping"}),
        "objects in np.save's format": _packed({"data": {"__ndarray_class__": True, "as_npy": objects.getvalue()}}),
        "objects in msgpack_numpy's format": _packed({"data": part(kind=b"O", type="|O")}),
        "an array that claims a petabyte": _packed({"data": part(shape=[10**6, 10**9])}),
        "100,000 lists in each other": b"\x91" * 100_000 + b"\xc0",
        "a list that claims 4 billion entries": b"\xdd\xff\xff\xff\xff",
        "an image as lists of numbers": observed("video", camera, [[[[[0] * 3] * 300] * 200]]),
        "64 MiB and more": _packed({"data": bytes(LARGEST_REQUEST + 1)}),
        "kill": _packed({"endpoint": "kill"}),
        "an endpoint of 1,000,000 characters": _packed({"endpoint": "x" * 1_000_000}),
        "17 samples": observed("video", camera, np.zeros((17, 1, 8, 8, 3), np.uint8)),
        "an image of 4096 x 4096": observed("video", camera, np.zeros((1, 1, 4096, 4096, 3), np.uint8)),
        "an image of 1 x 4096": observed("video", camera, np.zeros((1, 1, 1, 4096, 3), np.uint8)),
        "an image of 410 x 41": observed("video", camera, np.zeros((1, 1, 410, 41, 3), np.uint8)),
        "an image of 1 x 1": observed("video", camera, np.zeros((1, 1, 1, 1, 3), np.uint8)),
        "an image of 4097 x 1": observed("video", camera, np.zeros((1, 1, 4097, 1, 3), np.uint8)),
        "a state of NaN": observed("state", joint, np.full((1, 1, width), np.nan)),
        "a state of 1e300": observed("state", joint, np.full((1, 1, width), 1e300)),
        "an instruction of 1,000 emoji": observed("language", config.language, [["\U0001f916" * 1000]]),
        "an instruction of 76 image tokens": observed("language", config.language, [["<|image_pad|>" * 76]]),
        "a previous chunk of NaN": options(
            **first | {"rtc_previous_actions": {key: each * np.nan for key, each in robot.actions.items()}}
        ),
        "a previous chunk of 1e38": options(
            **first | {"rtc_previous_actions": {key: each + 1e38 for key, each in robot.actions.items()}}
        ),
        "a previous chunk of texts": options(
            **first | {"rtc_previous_actions": {key: np.full(each.shape, "x") for key, each in robot.actions.items()}}
        ),
        "2^62 executed steps": options(**first | {"rtc_executed_steps": 2**62}),
        "-1 executed steps": options(**first | {"rtc_executed_steps": -1}),
        "17 frozen steps": options(**first, rtc_frozen_steps=17),
        "a ramp rate of NaN": options(**first, rtc_ramp_rate=float("nan")),
        "a ramp rate of 1e-300": options(**first, rtc_ramp_rate=1e-300),
        "reset with 1,000 options": _packed({"endpoint": "reset", "data": {str(each): each for each in range(1000)}}),
    }


def _bodies() -> dict[str, bytes]:
    array = {"__numpy__": "AAAA", "dtype": "<f4", "shape": [10**7, 10**7]}
    return {
        "pickle": pickle.dumps({}),
        "9,000 lists in each other": b"[" * 9000,
        "a number of 1,000,000 digits": b"1" * 1_000_000,
        "an array that claims a petabyte": json.dumps({"observation": {"video": array}}).encode(),
        "an array of objects": json.dumps({"observation": {"video": {**array, "dtype": "|O"}}}).encode(),
        "half a surrogate": b'{"observation": {"\\ud800": "\\udfff"}}',
        f"a body of {LARGEST_BODY // 1024**2} MiB and more": bytes(LARGEST_BODY + 1),
        f"a text of {LARGEST_BODY // 1024**2 - 1} MiB": b'{"observation": "' + b"x" * (LARGEST_BODY - 1024**2) + b'"}',
    }


def _heads() -> dict[str, bytes]:
    post = b"POST /act HTTP/1.1\r\n"
    return {
        "no length": post + b"\r\n",
        "a negative length": post + b"Content-Length: -1\r\n\r\n",
        "a length of 10^30": post + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n",
        "chunks": post + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "less than its length": post + b"Content-Length: 1000\r\n\r\n{",
        "GET /../../etc/passwd": b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
        "BREW /act": b"BREW /act HTTP/1.1\r\n\r\n",
        "a line of 1 MB": b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        "200 headers": post + b"".join(b"X-%d: 1\r\n" % each for each in range(200)) + b"\r\n",
        "a header of 1 MB": post + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
        "noise": bytes(range(256)) * 100,
    }


def _packed(document: Any) -> bytes:
    packed = msgpack.packb(document)
    assert packed is not None
    return packed


def changed(robot: Robot, random: np.random.Generator) -> Iterator[Sent]:
    """Real requests of every kind of client, with values, structure or bytes changed; without an end."""
    while True:
        form = list(Form)[random.integers(4)]
        request: dict[str, Any] = {"endpoint": str(random.choice(_ENDPOINTS))}
        options = {
            "rtc_previous_actions": robot.actions,
            "rtc_executed_steps": int(random.integers(0, 16)),
            "rtc_frozen_steps": int(random.integers(0, 4)),
            "rtc_ramp_rate": float(random.choice([1.0, 6.0])),
        }
        if form is Form.FLAT:
            request["data"] = robot.flat
        else:
            observation = robot.flat if form is Form.JSON and random.random() < 0.5 else robot.nested
            request["data"] = {"observation": observation, "options": options if random.random() < 0.7 else None}
        document = _written(request["data"] if form is Form.JSON else request, form)
        for _ in range(random.integers(0, 4)):
            document = _changed(document, random)
        message = json.dumps(document, default=repr).encode() if form is Form.JSON else _packed(document)
        if random.random() < 0.2:
            message = _with_other_bytes(message, random)
        what = repr(document)[:300]
        if form is Form.JSON:
            yield Sent(f"HTTP, {form.value}", what, lambda message=message: robot.post(message))
        else:
            yield Sent(f"ZMQ, {form.value}", what, lambda message=message: robot.zmq(message))


_ENDPOINTS = ("get_action", "get_action", "get_action", "get_action", "reset", "get_modality_config", "ping", "kill")
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 15, 16, 17, 2**31, 2**62, -(2**63), 0.5, 1e-300, 1e38, 1e300, float("nan")),
    *(float("inf"), "", "x", "x" * 2000, "\x00", "\U0001f916" * 300, "action.right_arm", "<f4", "|O", "<U9", ">f8"),
    *([], {}, [[]], [1, 2, 3], [[0.0] * 7], [-1], [10**9, 10**9], ["pick"], [["pick"]], {"": None}, {"video": {}}),
)


def _changed(document: Any, random: np.random.Generator, depth: int = 0) -> Any:
    """``document`` with one of its values replaced, removed, doubled or packed into something."""
    children = (
        list(document)
        if isinstance(document, dict)
        else list(range(len(document)))
        if isinstance(document, list)
        else []
    )
    if children and depth < 8 and random.random() < 0.9:
        key = children[random.integers(len(children))]
        copy = document.copy()
        choice = random.random()
        if choice < 0.1:
            del copy[key]
        elif choice < 0.15 and isinstance(copy, dict):
            copy[str(random.choice(["video", "state", "language", "nd", "__numpy__", "as_npy", "x"]))] = copy.pop(key)
        elif choice < 0.2 and isinstance(copy, list):
            copy = copy * 2
        else:
            copy[key] = _changed(copy[key], random, depth + 1)
        return copy
    if random.random() < 0.2 and isinstance(document, bytes | str) and document:
        return document[: random.integers(len(document))]
    if random.random() < 0.1:
        return [document]
    return _VALUES[random.integers(len(_VALUES))]


def _with_other_bytes(message: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(message)
    # The structure is at the start and the end; most of the middle is an image.
    place = int(random.integers(min(len(changed), 400)))
    if random.random() < 0.3:
        place = len(changed) - 1 - place
    match random.integers(4):
        case 0:
            changed[place] = random.integers(256)
        case 1:
            del changed[place:]
        case 2:
            changed[place:place] = random.bytes(int(random.integers(1, 9)))
        case _:
            del changed[place : place + int(random.integers(1, 9))]
    return bytes(changed)
