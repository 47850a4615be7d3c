"""A client of every kind for ``bench.hostile``, and what it makes of the answers."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack
import numpy as np
import zmq

from trainer.gr00t.policy import Policy
from trainer.serving.arrays import from_base64, from_npy, from_parts
from trainer.serving.wire import Form, dump, pack


class Exchange(NamedTuple):
    """What came back."""

    kind: str
    words: str
    failure: bool = False


@dataclass(frozen=True)
class Sent:
    """One request."""

    by: str
    what: str
    send: Callable[[], Exchange]


class Robot:
    """Every kind of client of one server, for the policy that it serves."""

    def __init__(self, policy: Policy, port: int, http_port: int, patience: float, token: str | None = None) -> None:
        self.policy, self.port, self.http_port, self.patience, self.token = policy, port, http_port, patience, token
        random, given = np.random.default_rng(0), policy.example()
        config = policy.data_config
        self.flat: dict[str, Any] = {
            **{f"video.{key}": random.integers(0, 256, given[f"video.{key}"].shape, np.uint8) for key in config.video},
            **{f"state.{key}": given[f"state.{key}"] for key in config.keys("state")},
            config.language: ["Pick up the cube."],
        }
        self.nested = {
            "video": {key: self.flat[f"video.{key}"][None] for key in config.video},
            "state": {key: self.flat[f"state.{key}"][None] for key in config.keys("state")},
            "language": {config.language: [["Pick up the cube."]]},
        }
        self.actions = {
            key: np.zeros((1, config.action_horizon, policy.checkpoint.widths[f"action.{key}"]), np.float32)
            for key in config.keys("action")
        }
        self._socket: zmq.Socket | None = None

    def request(self, **options: Any) -> dict[str, Any]:
        """What a client of N1.6 or N1.7 asks."""
        return {"endpoint": "get_action", "data": {"observation": self.nested, "options": options or None}}

    def act(self) -> None:
        """Ask as a robot does, by both ways. Raises ``SystemExit`` where that is not answered."""
        for came in (
            self.zmq(pack({"endpoint": "ping"}, Form.FLAT)),
            self.zmq(pack(self.request(), Form.MSGPACK_NUMPY)),
            self.post(dump({"observation": self.flat})),
            self.http(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"),
        ):
            if came.failure or came.kind not in ("actions", "answered"):
                raise SystemExit(f"A robot got: {came}")

    def zmq(self, message: bytes) -> Exchange:
        """The answer to a message; a client that got none begins again."""
        if self._socket is None:
            self._socket = zmq.Context.instance().socket(zmq.REQ)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.RCVTIMEO, int(1e3 * self.patience))
            self._socket.connect(f"tcp://127.0.0.1:{self.port}")
        self._socket.send(message)
        try:
            answer = msgpack.unpackb(self._socket.recv(), raw=False, strict_map_key=False)
        except zmq.Again:
            self._socket.close()
            self._socket = None
            return Exchange("silence", "no answer", failure=True)
        return judged(answer)

    def disconnected(self, message: bytes) -> Exchange:
        """What a client is told that sends more than is read."""
        with zmq.Context.instance().socket(zmq.DEALER) as client:
            client.setsockopt(zmq.LINGER, 0)
            monitor = client.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            client.connect(f"tcp://127.0.0.1:{self.port}")
            client.send_multipart([b"", message])
            gone = bool(monitor.poll(1e3 * self.patience))
            client.disable_monitor()
        return Exchange("disconnected", "disconnected", failure=not gone)

    def post(self, body: bytes, **headers: str) -> Exchange:
        """The answer to ``POST /act``, as Python's own client reads it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=self.patience)
        try:
            connection.request("POST", "/act", body, headers)
            return _of_http(connection.getresponse())
        except OSError as error:
            return Exchange("silence", repr(error), failure=True)
        finally:
            connection.close()

    def http(self, sent: bytes, *, end: bool = False) -> Exchange:
        """The answer to these bytes on a new connection; with ``end`` nothing more is to come."""
        with socket.create_connection(("127.0.0.1", self.http_port), timeout=self.patience) as connection:
            try:
                connection.sendall(sent)
                if end:
                    connection.shutdown(socket.SHUT_WR)
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                return _of_http(answer)
            except (http.client.BadStatusLine, ConnectionError):
                return Exchange("disconnected", "disconnected")
            except OSError as error:
                return Exchange("silence", repr(error), failure=True)


def _of_http(answer: http.client.HTTPResponse) -> Exchange:
    content = answer.read()
    try:
        came = judged(json.loads(content))
    except ValueError:
        return Exchange("unreadable", f"{answer.status} {content[:80]!r}", failure=True)
    return came._replace(words=f"{answer.status}: {came.words}")


def judged(answer: Any) -> Exchange:
    """Refused in words, answered, or a defect: a failure of the server, or actions that are no numbers."""
    if isinstance(answer, dict) and "error" in answer:
        words = str(answer["error"])
        return Exchange("refused", words, failure=words.startswith("The server failed"))
    actions = answer[0] if isinstance(answer, list) and answer else answer
    arrays = [each for each in actions.values() if isinstance(each, dict)] if isinstance(actions, dict) else []
    found = [each for each in map(_array, arrays) if each is not None]
    if not found:
        return Exchange("answered", json.dumps(answer, default=str)[:80])
    finite = all(np.isfinite(each).all() for each in found)
    shapes = ", ".join(str(list(each.shape)) for each in found[:2])
    return Exchange("actions", f"actions {shapes}{'' if finite else ', not finite'}", failure=not finite)


def _array(value: dict[Any, Any]) -> np.ndarray | None:
    if "as_npy" in value:
        return from_npy(value["as_npy"])
    if "__numpy__" in value:
        return from_base64(value["__numpy__"], value["dtype"], value["shape"])
    named = {key.decode() if isinstance(key, bytes) else key: each for key, each in value.items()}
    return from_parts(named["data"], named["type"], named["shape"]) if "nd" in named else None
