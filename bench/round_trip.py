"""What the way to the policy server and back costs: requests on this machine to a policy that answers at once.

The client's own packing is not in it; the request is bytes before the clock starts.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import zmq

from bench.table import table
from trainer.gr00t.policy import Policy
from trainer.gr00t.previous_chunk import PreviousChunk
from trainer.serving.observation import flat
from trainer.serving.over_http import HttpServer
from trainer.serving.over_zmq import ZmqServer
from trainer.serving.service import Service
from trainer.serving.wire import Form, dump, pack

CAMERAS = ("front", "left", "right")
SIZES = ((320, 240), (640, 480), (1920, 1080))
WARM_UP = 5


class Instant:
    """A policy with three cameras that answers zeros."""

    def __init__(self, policy: Policy) -> None:
        self.data_config = replace(policy.data_config, video=CAMERAS)
        keys = self.data_config.keys("action")
        self._actions = {f"action.{key}": np.zeros((16, policy.checkpoint.widths[f"action.{key}"])) for key in keys}

    def get_action(
        self, observation: Mapping[str, Any], *, previous: PreviousChunk | None = None
    ) -> dict[str, np.ndarray]:
        """The zeros."""
        del observation, previous
        return self._actions


def round_trips(policy: Policy, count: int) -> str:
    """p50 and p99 of ``count`` round trips by client and size of the images."""
    service = Service(Instant(policy))
    robots, web = ZmqServer(service, "tcp://127.0.0.1:0"), HttpServer(service, "127.0.0.1", 0)
    for run in (service.turns.run, robots.run, web.serve_forever):
        threading.Thread(target=run, daemon=True).start()
    rows = []
    with zmq.Context.instance().socket(zmq.REQ) as client:
        client.connect(f"tcp://127.0.0.1:{robots.port}")
        connection = http.client.HTTPConnection("127.0.0.1", web.server_port)

        def by_zmq(message: bytes) -> None:
            client.send(message)
            if b"error" in client.recv()[:10]:
                raise SystemExit("The server refused a request of the bench.")

        def by_http(body: bytes) -> None:
            connection.request("POST", "/act", body)
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(answer.read().decode())
            answer.read()

        for width, height in SIZES:
            nested = _observation(policy, width, height)
            data = {"observation": nested}
            alone = {name: value[0] if isinstance(value, np.ndarray) else value for name, value in flat(nested).items()}
            ways: dict[str, tuple[Callable[[bytes], None], bytes]] = {
                "ZMQ, N1.7": (by_zmq, pack({"endpoint": "get_action", "data": data}, Form.MSGPACK_NUMPY)),
                "ZMQ, N1.5": (by_zmq, pack({"endpoint": "get_action", "data": alone}, Form.FLAT)),
                "HTTP": (by_http, dump(data)),
            }
            for name, (ask, message) in ways.items():
                taken = []
                for _ in range(WARM_UP + count):
                    began = time.perf_counter()
                    ask(message)
                    taken.append(time.perf_counter() - began)
                p50, p99 = 1e3 * np.percentile(taken[WARM_UP:], [50, 99])
                rows.append([f"3 of {width} x {height}", name, len(message) / 1e6, p50, p99])
        connection.close()
    service.turns.close()
    robots.close()
    web.shutdown()
    web.server_close()
    return table(["images", "client", "MB", "p50 ms", "p99 ms"], rows)


def _observation(policy: Policy, width: int, height: int) -> dict[str, Any]:
    random, config = np.random.default_rng(0), policy.data_config
    widths = {key: policy.checkpoint.widths[f"state.{key}"] for key in config.keys("state")}
    return {
        "video": {key: random.integers(0, 256, (1, 1, height, width, 3), np.uint8) for key in CAMERAS},
        "state": {key: np.zeros((1, 1, each), np.float32) for key, each in widths.items()},
        "language": {config.language: [["Pick up the cube."]]},
    }
