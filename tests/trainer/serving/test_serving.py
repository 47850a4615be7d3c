"""The server on real sockets, with a real tiny policy, asked by each kind of client."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any

import json_numpy
import msgpack
import msgpack_numpy
import numpy as np
import pytest
import zmq

from tests.support.waiting import PATIENCE
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata, write_metadata
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.gr00t.policy import Policy
from trainer.serving.over_http import HttpServer
from trainer.serving.over_zmq import ZmqServer
from trainer.serving.service import Service, warm_up

TOKEN = "a-token-of-a-test"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("served")
    dataset = make_synthetic(folder / "data", episodes=1)
    checkpoint = shutil.copytree(make_tiny_base_model(folder / "tiny"), folder / "checkpoint")
    write_metadata(checkpoint / "experiment_cfg", build_metadata(DatasetMeta.load(dataset), "new_embodiment"))
    policy = Policy(checkpoint, "fourier_gr1_arms_only", "new_embodiment", device="cpu")
    warm_up(policy)
    return policy


class Server:
    """Both servers in threads of this process."""

    def __init__(self, policy: Any, token: str | None = None) -> None:
        self.service = Service(policy, token)
        self.zmq = ZmqServer(self.service, "tcp://127.0.0.1:0")
        self.http = HttpServer(self.service, "127.0.0.1", 0)
        self.threads = [
            threading.Thread(target=run, daemon=True)
            for run in (self.service.turns.run, self.zmq.run, self.http.serve_forever)
        ]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        self.service.turns.close()
        self.zmq.close()
        self.http.shutdown()
        self.http.server_close()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(policy: Policy) -> Iterator[Server]:
    server = Server(policy)
    yield server
    server.close()


@pytest.fixture
def client(server: Server) -> Iterator[zmq.Socket]:
    with connected(server) as socket_:
        yield socket_


def connected(server: Server) -> Any:
    socket_ = zmq.Context.instance().socket(zmq.REQ)
    socket_.setsockopt(zmq.RCVTIMEO, 60_000)
    socket_.setsockopt(zmq.LINGER, 0)
    socket_.connect(f"tcp://127.0.0.1:{server.zmq.port}")
    return socket_


def npy(value: Any) -> Any:
    """N1.5's and N1.6's serialiser."""
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def from_npy(value: Any) -> Any:
    return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False) if "as_npy" in value else value


WRITERS: dict[str, tuple[Any, Any]] = {
    "N1.5": (npy, from_npy),
    "N1.6": (npy, from_npy),
    "N1.7": (msgpack_numpy.encode, msgpack_numpy.decode),
}


def ask(client: Any, form: str, request: dict[str, Any]) -> Any:
    write, read = WRITERS[form]
    client.send(msgpack.packb(request, default=write))
    return msgpack.unpackb(client.recv(), object_hook=read)


def observed(policy: Policy, batch: int = 0) -> dict[str, Any]:
    """A flat observation; with ``batch`` it has a batch axis."""
    lead = (batch, 1) if batch else (1,)
    found: dict[str, Any] = {policy.data_config.language: ["pick it up"] * (batch or 1)}
    for key in policy.data_config.video:
        width, height = policy.checkpoint.image_sizes[key]
        found[f"video.{key}"] = np.zeros((*lead, height, width, 3), np.uint8)
    for key in policy.data_config.keys("state"):
        found[f"state.{key}"] = np.zeros((*lead, policy.checkpoint.widths[f"state.{key}"]), np.float32)
    return found


def nested(policy: Policy, batch: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = {"video": {}, "state": {}}
    for name, value in observed(policy, batch).items():
        part, _, key = name.partition(".")
        if part == "annotation":
            found["language"] = {name: [[each] for each in value]}
        else:
            found[part][key] = value
    return found


def request_of(policy: Policy, form: str, batch: int = 1) -> dict[str, Any]:
    if form == "N1.5":
        return {"endpoint": "get_action", "data": observed(policy)}
    return {"endpoint": "get_action", "data": {"observation": nested(policy, batch), "options": None}}


@pytest.mark.parametrize("form", WRITERS)
def test_every_endpoint_answers_every_client_in_its_own_form(client, policy, form):
    config = policy.data_config
    assert ask(client, form, {"endpoint": "ping"})["status"] == "ok"
    reply = ask(client, form, request_of(policy, form))
    actions, lead = (reply, ()) if form == "N1.5" else (reply[0], (1,))
    prefix = "action." if form == "N1.5" else ""
    assert set(actions) == {f"{prefix}{key}" for key in config.keys("action")}
    for key in config.keys("action"):
        width = policy.checkpoint.widths[f"action.{key}"]
        found = actions[prefix + key]
        assert found.shape == (*lead, config.action_horizon, width) and np.isfinite(found).all()
        assert form == "N1.5" or found.dtype == np.float32
    assert form == "N1.5" or reply[1] == {}
    assert ask(client, form, {"endpoint": "reset", "data": {"options": None}}) == {}
    modality = ask(client, form, {"endpoint": "get_modality_config"})
    marker = "__ModalityConfig__" if form == "N1.7" else "__ModalityConfig_class__"
    assert list(modality) == ["video", "state", "action", "language"] and all(
        each[marker] for each in modality.values()
    )
    state = modality["state"]["as_json"]
    state = json.loads(state) if form == "N1.5" else state
    named = "state." if form == "N1.5" else ""
    assert state["modality_keys"] == [named + key for key in config.keys("state")]


@pytest.mark.parametrize("form", ["N1.6", "N1.7"])
def test_a_batch_of_several_samples_is_answered_as_one(client, policy, form):
    [actions, _] = ask(client, form, request_of(policy, form, batch=3))
    assert {len(value) for value in actions.values()} == {3}


def post(server: Server, body: bytes, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.http.server_port, timeout=60)
    connection.request("POST", "/act", body, headers)
    answer = connection.getresponse()
    content = json_numpy.loads(answer.read())
    connection.close()
    return answer.status, content


def test_http_answers_json_numpy_in_kind(server, policy):
    status, actions = post(server, json_numpy.dumps({"observation": observed(policy)}).encode())
    assert status == 200 and set(actions) == {f"action.{key}" for key in policy.data_config.keys("action")}
    assert all(value.shape[0] == policy.data_config.action_horizon for value in actions.values())
    status, [later, info] = post(server, json_numpy.dumps({"observation": nested(policy)}).encode())
    assert status == 200 and info == {} and set(later) == set(policy.data_config.keys("action"))


def test_http_has_health_and_nothing_else(server):
    found = {}
    for method, path in (("GET", "/health"), ("GET", "/act"), ("POST", "/kill"), ("DELETE", "/act")):
        connection = http.client.HTTPConnection("127.0.0.1", server.http.server_port, timeout=60)
        connection.request(method, path, b"{}")
        answer = connection.getresponse()
        found[method, path] = (answer.status, answer.read())
        connection.close()
    assert found["GET", "/health"] == (200, b'{"status": "healthy"}')
    assert [found[each][0] for each in list(found)[1:]] == [404, 404, 501]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "kill": ({"endpoint": "kill"}, "no endpoint 'kill'; there are ping"),
    "unknown": ({"endpoint": ["x"] * 900}, "no endpoint"),
    "no data": ({"endpoint": "get_action"}, "needs an observation"),
    "empty": ({"endpoint": "get_action", "data": {}}, "it has nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_served_gets_an_error_and_the_client_goes_on(client, name):
    request, words = WRONG[name]
    assert words in ask(client, "N1.5", request)["error"]
    assert ask(client, "N1.5", {"endpoint": "ping"})["status"] == "ok"


def changed(policy: Policy, which: str, change: Any) -> dict[str, Any]:
    found = observed(policy)
    name = next(each for each in found if each.startswith(which))
    return {**found, name: change(found[name])}


@pytest.mark.parametrize(
    ("which", "change", "words"),
    [
        ("video", lambda each: each.astype(np.float32), "must be an array of uint8"),
        ("video", lambda each: each[0], "must be [1, height, width, 3]"),
        ("video", lambda each: np.concatenate([each, each]), "must be [1, height, width, 3]"),
        ("video", lambda each: np.zeros((1, 0, 4, 3), np.uint8), "pixels high and wide"),
        ("video", lambda each: np.zeros((1, 1, 100_000, 3), np.uint8), "pixels high and wide"),
        ("video", lambda each: each[None], "one batch size"),
        ("state", lambda each: each * np.nan, "no finite number"),
        ("state", lambda each: np.array([["x"]]), "array of numbers"),
        ("state", lambda each: [[1.0], [1.0, 2.0]], "array of numbers"),
        ("state", lambda each: np.zeros((1, 1000)), "1000"),
        ("annotation", lambda each: ["x" * 1001], "longer than"),
        ("annotation", lambda each: 7, "list of texts"),
        ("annotation", lambda each: np.frombuffer(b"\xff\xff\xff\xff", "<U1"), "not Unicode"),
        ("annotation", lambda each: np.frombuffer(b"\x00\xd8\x00\x00", "<U1"), "not Unicode"),
        ("annotation", lambda each: ["a", "b"], "a list of 1 text"),
    ],
)
def test_an_observation_that_does_not_fit_is_explained(client, policy, which, change, words):
    reply = ask(client, "N1.5", {"endpoint": "get_action", "data": changed(policy, which, change)})
    assert words in reply["error"]


def test_an_instruction_under_another_name_is_not_ignored(client, policy):
    wrong = {("annotation.other" if k.startswith("annotation") else k): v for k, v in observed(policy).items()}
    assert policy.data_config.language in ask(client, "N1.5", {"endpoint": "get_action", "data": wrong})["error"]


def test_where_a_token_is_required_nothing_is_served_without_it(policy):
    server = Server(policy, TOKEN)
    try:
        with connected(server) as client:
            for wrong in ({}, {"api_token": "x"}, {"api_token": 7}, {"api_token": "ü" * 20}):
                assert "Unauthorized" in ask(client, "N1.5", {"endpoint": "ping", **wrong})["error"]
            assert ask(client, "N1.5", {"endpoint": "ping", "api_token": TOKEN})["status"] == "ok"
        assert post(server, b"{}")[0] == 401
        assert post(server, b"{}", Authorization=f"Bearer {TOKEN}")[0] == 400  # it was read
    finally:
        server.close()


class Gate:
    """A policy that answers when it is let."""

    def __init__(self, policy: Policy) -> None:
        self.data_config = policy.data_config
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)
        self.seen: list[str] = []

    def get_action(self, observation: Any, *, previous: Any = None) -> Any:
        self.entered.release()
        assert self.open.acquire(timeout=60)
        [text] = observation[self.data_config.language]
        self.seen.append(text)
        if text == "fail":
            raise RuntimeError("a secret of the machine")
        return {"action.x": np.zeros((2, 1))}


def told(policy: Policy, text: str) -> bytes:
    data = {**observed(policy), policy.data_config.language: [text]}
    packed = msgpack.packb({"endpoint": "get_action", "data": data}, default=npy)
    assert packed is not None
    return packed


def test_clients_take_turns_and_one_that_floods_or_vanishes_stops_nobody(policy):
    gate = Gate(policy)
    server = Server(gate)
    try:
        flood = zmq.Context.instance().socket(zmq.DEALER)
        flood.setsockopt(zmq.LINGER, 0)
        flood.connect(f"tcp://127.0.0.1:{server.zmq.port}")
        flood.send_multipart([b"", told(policy, "first")])
        assert gate.entered.acquire(timeout=60)  # the model is busy
        for number in range(6):
            flood.send_multipart([b"", told(policy, f"flood {number}")])
        for _ in range(4):  # two wait, four are refused
            assert flood.poll(60_000)
            assert "Too many" in msgpack.unpackb(flood.recv_multipart()[1])["error"]
        with connected(server) as other, connected(server) as gone:
            assert ask(other, "N1.7", {"endpoint": "ping"})["status"] == "ok"  # while the model is busy
            other.send(told(policy, "other"))
            while len(server.service.turns._waiting) < 2:
                pass
            gone.send(told(policy, "fail"))
            while len(server.service.turns._waiting) < 3:
                pass
            gone.close()
            flood.close()
            for _ in range(5):
                gate.open.release()
            assert "action.x" in msgpack.unpackb(other.recv())
            gate.open.release()
            other.send(told(policy, "fail"))
            assert msgpack.unpackb(other.recv())["error"] == "The server failed: RuntimeError. Its log says more."
        assert gate.seen == ["first", "flood 0", "other", "fail", "flood 1", "fail"]
    finally:
        server.close()


def test_who_waits_when_the_server_stops_is_told(policy):
    gate = Gate(policy)
    server = Server(gate)
    with connected(server) as first, connected(server) as second:
        first.send(told(policy, "first"))
        assert gate.entered.acquire(timeout=60)
        second.send(told(policy, "second"))
        while not server.service.turns._waiting:
            pass
        server.service.turns.close()
        assert "stops" in msgpack.unpackb(second.recv())["error"]
        gate.open.release()
        assert "action.x" in msgpack.unpackb(first.recv())
    server.close()


def test_broken_http_and_zmq_clients_stop_nobody(server, policy):
    address = ("127.0.0.1", server.http.server_port)
    slow = socket.create_connection(address)
    slow.sendall(b"POST /act HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
    for start, status in (
        (b"POST /act HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /act HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST /act HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"BREW /act HTTP/1.1\r\n\r\n", b"501"),
    ):
        with socket.create_connection(address, timeout=60) as broken:
            broken.sendall(start)
            assert status in broken.makefile("rb").readline()
    with socket.create_connection(("127.0.0.1", server.zmq.port)) as noise:
        noise.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
    huge = zmq.Context.instance().socket(zmq.DEALER)
    huge.setsockopt(zmq.LINGER, 0)
    huge.connect(f"tcp://127.0.0.1:{server.zmq.port}")
    huge.send_multipart([b"v", b"x", b"y", b"z", b"w"])  # an envelope of nobody's
    with connected(server) as client:
        assert (
            ask(client, "N1.5", request_of(policy, "N1.5")).keys()
            == post(server, json_numpy.dumps({"observation": observed(policy)}).encode())[1].keys()
        )
    huge.close()
    slow.close()
