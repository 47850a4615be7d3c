"""A server that dies: its clients have an error within their timeout, and a restarted one answers them."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import json_numpy
import numpy as np
import pytest
import zmq

from tests.support.ports import free_ports
from tests.trainer.serving.test_serving import ask
from trainer.data.configs import get_data_config
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata, write_metadata
from trainer.data.synthetic import TASK_COLUMN, make_synthetic
from trainer.gr00t.n15.tiny import make_tiny_base_model

CONFIG = "fourier_gr1_arms_only"
TIMEOUT_MS = 2000
SERVING = re.compile(r"Serving .* at tcp://127\.0\.0\.1:\d+ .* http://127\.0\.0\.1:\d+ ")


class Serving:
    """``trainer serve`` in a process."""

    def __init__(self, checkpoint: Path, port: int, http_port: int) -> None:
        command = [sys.executable, "-m", "trainer.cli", "serve", str(checkpoint), f"--data-config={CONFIG}"]
        self.process = subprocess.Popen(
            [*command, f"--port={port}", f"--http-port={http_port}", "--denoising-steps=1"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        assert any(map(SERVING.search, self.process.stderr)), "it ended before it served"
        self.port, self.http_port = port, http_port

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    dataset = make_synthetic(tmp_path / "data", episodes=1)
    folder = Path(shutil.copytree(make_tiny_base_model(tmp_path / "tiny"), tmp_path / "checkpoint"))
    write_metadata(folder / "experiment_cfg", build_metadata(DatasetMeta.load(dataset), "new_embodiment"))
    return folder


@pytest.fixture
def server(checkpoint: Path) -> Iterator[Serving]:
    server = Serving(checkpoint, *free_ports(2))
    yield server
    server.kill()


def client_of(port: int, *, numbered: bool) -> zmq.Socket:
    client = zmq.Context.instance().socket(zmq.REQ)
    client.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
    client.setsockopt(zmq.LINGER, 0)
    if numbered:  # may ask again after a timeout, and tells late answers from new ones
        client.setsockopt(zmq.REQ_RELAXED, 1)
        client.setsockopt(zmq.REQ_CORRELATE, 1)
    client.connect(f"tcp://127.0.0.1:{port}")
    return client


@pytest.mark.slow
def test_clients_of_a_killed_server_hear_of_it_and_are_answered_by_the_next(server: Serving, checkpoint: Path) -> None:
    config = get_data_config(CONFIG)
    widths = {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6}
    observation = {
        "video.ego_view": np.zeros((1, 256, 256, 3), np.uint8),
        **{f"state.{key}": np.zeros((1, widths[key])) for key in config.keys("state")},
        TASK_COLUMN: ["pick it up"],
    }
    request = {"endpoint": "get_action", "data": observation}
    body = json_numpy.dumps({"observation": observation}).encode()
    web = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    # One that stays as it is, and one that is connected again after a timeout, as upstream's client of N1.7 is.
    lasting, upstreams = (client_of(server.port, numbered=numbered) for numbered in (True, False))
    try:
        for client in (lasting, upstreams):
            client.setsockopt(zmq.RCVTIMEO, 60_000)
            assert len(ask(client, "N1.5", request)) == 4
            client.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
        os.kill(server.process.pid, signal.SIGSTOP)  # so that it dies with the requests in its hands
        web.request("POST", "/act", body)
        server.kill()
        for client in (lasting, upstreams):
            with pytest.raises(zmq.error.Again):
                ask(client, "N1.5", request)
        with pytest.raises(ConnectionError):
            web.getresponse()
        upstreams.close()
        upstreams = client_of(server.port, numbered=False)

        again = Serving(checkpoint, server.port, server.http_port)
        try:
            for client in (lasting, upstreams):
                client.setsockopt(zmq.RCVTIMEO, 60_000)
                assert len(ask(client, "N1.5", request)) == 4
            web.close()
            web.request("POST", "/act", body)
            assert web.getresponse().status == 200
        finally:
            again.kill()
    finally:
        for client in (lasting, upstreams):
            client.close()
        web.close()
