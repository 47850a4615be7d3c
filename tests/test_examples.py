"""The robot loop of the docs: against a real `pippa serve`, with Ctrl-C and with a server that dies."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.registered import tiny_checkpoint
from trainer.store.folder import FolderStore

EXAMPLES = REPOSITORY / "docs" / "examples"
WAIT = 300


@pytest.fixture
def environ(tmp_path) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if name != "PIPPA_S3_ENDPOINT"}
    environ |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return {**environ, "PIPPA_HOME": str(tmp_path / "home")}


@pytest.mark.slow
def test_the_loop_acts_stops_and_ends_when_the_server_dies(environ, tmp_path):
    store = FolderStore(tmp_path / "home" / "store")
    store.create()
    tiny_checkpoint(store, tmp_path)
    command = [sys.executable, "-m", "flows.cli", "serve", "smoke/latest", "--port", "0", "--http-port", "0"]
    server = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    loops: list[subprocess.Popen[str]] = []

    def loop(address: str, *flags: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-u", str(EXAMPLES / "robot_loop.py"), "--server", address, "--rate", "200", *flags]
        pipe = subprocess.PIPE
        loops.append(subprocess.Popen(words, env=environ, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return loops[-1]

    try:
        assert server.stderr is not None
        said = next((line for line in server.stderr if line.startswith("Serving")), "")
        found = re.search(r"tcp://127\.0\.0\.1:\d+", said)
        assert found, said
        acted = loop(found[0], "--timeout", str(WAIT))
        out, err = acted.communicate(timeout=WAIT)
        assert (acted.returncode, err) == (0, "") and "Done." in out

        for end, timeout in (("Ctrl-C", 20), ("the server dies", 10)):
            acting = loop(found[0], "--rate", "8", "--timeout", str(timeout))
            assert acting.stdout is not None and acting.stdout.readline().startswith("Acting.")
            time.sleep(1)  # into the first chunk, of two seconds
            acting.send_signal(signal.SIGINT) if end == "Ctrl-C" else server.kill()
            out, err = acting.communicate(timeout=WAIT)
            if end == "Ctrl-C":
                assert (acting.returncode, out, err) == (0, "Stopped: the arm holds.\n", "")
            else:
                assert (acting.returncode, out) == (1, "")
                assert err == f"No answer from {found[0]} within {timeout} s: the arm holds.\n"
    finally:
        for process in (server, *loops):
            process.kill()
            process.wait()


def test_the_loop_is_short_enough_to_copy():
    lines = [line for line in (EXAMPLES / "robot_loop.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 75


def test_an_so101_sees_and_moves_as_its_data_config_says(monkeypatch):
    """LeRobot's driver needs the arm; here its class is stood in for."""

    class Follower:
        def __init__(self, config):
            self.config, self.sent = config, []

        def connect(self):
            pass

        def get_observation(self):
            joints = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
            pictures = {name: np.zeros((480, 640, 3), np.uint8) for name in self.config["cameras"]}
            return {f"{joint}.pos": float(number) for number, joint in enumerate(joints)} | pictures

        def send_action(self, action):
            self.sent.append(action)

    for name, parts in {
        "lerobot.cameras.opencv.configuration_opencv": {"OpenCVCameraConfig": dict},
        "lerobot.robots.so101_follower": {"SO101Follower": Follower, "SO101FollowerConfig": dict},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    arm = _loaded(EXAMPLES / "so101.py").Arm()
    from trainer.data.configs import get_data_config

    config, seen = get_data_config("so100_dualcam"), arm.observe()
    wanted = [*(f"video.{key}" for key in config.video), *(f"state.{key}" for key in config.keys("state"))]
    assert set(seen) == {*wanted, config.language} and seen["state.single_arm"].shape == (1, 5)
    arm.act({"action.single_arm": np.arange(5.0), "action.gripper": np.array([9.0])})
    arm.hold()
    moved, held = arm.robot.sent
    assert list(moved.values()) == [0, 1, 2, 3, 4, 9] and list(held.values()) == [0, 1, 2, 3, 4, 5]
    assert arm.robot.config["disable_torque_on_disconnect"] is False


def _loaded(file: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
