"""What is sent to do harm is refused in words, by a server that goes on; so is whatever a fuzzer makes of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from bench.hostile_client import Robot
from bench.hostile_requests import changed, hostile
from bench.serve import policy_of_n17
from tests.trainer.serving.test_serving import TOKEN, Server, post
from trainer.gr00t.policy import Policy

ANSWERED = {"an image of 4096 x 4096", "an image of 1 x 1", "an image of 410 x 41", "reset with 1,000 options"}
ANSWERED |= {"an instruction of 1,000 emoji", "an instruction of 76 image tokens", "a previous chunk of 1e38"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("policy")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PIPPA_HOME", str(folder / "home"))
        return policy_of_n17(folder)


@pytest.fixture(scope="module")
def robot(policy: Policy) -> Iterator[Robot]:
    server = Server(policy)
    yield Robot(policy, server.zmq.port, server.http.server_port, 120.0)
    server.close()


def test_requests_that_are_to_do_harm_are_refused_in_words(robot: Robot) -> None:
    robot.act()
    for sent in hostile(robot):
        came = sent.send()
        assert not came.failure, (sent.what, came)
        if "a robot's" in sent.what:
            assert came.kind == "actions"
        elif sent.what not in ANSWERED:
            assert came.kind in ("refused", "disconnected") and (len(came.words) > 10), (sent.what, came)
    robot.act()


def test_changed_requests_are_answered_or_refused(robot: Robot) -> None:
    kinds: Counter[str] = Counter()
    for sent, _ in zip(changed(robot, np.random.default_rng(1)), range(200), strict=False):
        came = sent.send()
        assert not came.failure, (sent.by, sent.what, came)
        kinds[came.kind] += 1
    robot.act()
    assert kinds["refused"] > 50 and kinds["actions"] > 10 and kinds["answered"] > 10


def test_a_client_without_the_token_gets_its_answer_however_much_it_sends(policy: Policy) -> None:
    server = Server(policy, TOKEN)
    try:
        status, answer = post(server, bytes(8 * 1024**2))
        assert status == 401 and "token" in answer["error"]
        assert post(server, b"{}", Authorization=f"bearer {TOKEN}")[0] == 400  # it was read
    finally:
        server.close()
