"""A checkpoint of N1.7 behind the server: N1.7's clients get the policy's own actions, in N1.7's bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import json_numpy
import msgpack
import msgpack_numpy
import numpy as np
import pytest
import torch

from tests.support.n17 import ARM, trained_n17
from tests.trainer.serving.test_serving import Server, ask, connected, post
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.policy import Policy
from trainer.serving.observation import without_batch
from trainer.serving.service import warm_up
from trainer.serving.wire import unpack

HORIZON = 16


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PIPPA_HOME", str(folder / "home"))
        dataset = make_synthetic(folder / "data", episodes=1)
        policy = Policy(trained_n17(folder, dataset), device="cpu")
    warm_up(policy)
    return policy


@pytest.fixture(scope="module")
def server(policy: Policy) -> Iterator[Server]:
    server = Server(policy)
    yield server
    server.close()


def observed(seed: int = 0, batch: int = 1) -> dict[str, Any]:
    """A nested observation, as N1.7's clients send it."""
    random = np.random.default_rng(seed)
    return {
        "video": {"ego_view": random.integers(0, 256, (batch, 1, 240, 320, 3), np.uint8)},
        "state": {
            "right_arm": random.normal(size=(batch, 1, 7)).astype(np.float32),
            "right_hand": random.normal(size=(batch, 1, 6)).astype(np.float32),
        },
        "language": {ARM.language: [[f"pick it up {number}"] for number in range(batch)]},
    }


def flat(observation: dict[str, Any]) -> dict[str, Any]:
    found = {f"video.{key}": value for key, value in observation["video"].items()}
    found |= {f"state.{key}": value for key, value in observation["state"].items()}
    return {**found, ARM.language: [text for [text] in observation["language"][ARM.language]]}


def served(server: Server, request: dict[str, Any], form: str = "N1.7") -> Any:
    """The answer, with the sampler's noise known."""
    torch.manual_seed(7)
    with connected(server) as client:
        return ask(client, form, request)


@pytest.mark.parametrize("form", ["N1.6", "N1.7"])
@pytest.mark.parametrize("batch", [1, 3])
def test_actions_are_the_policys(server: Server, policy: Policy, form: str, batch: int) -> None:
    given = observed(batch=batch)
    reply = served(server, {"endpoint": "get_action", "data": {"observation": given, "options": None}}, form)
    torch.manual_seed(7)
    want = policy.get_action(flat(given))
    assert set(reply[0]) == {"right_arm", "right_hand"} and reply[1] == {}
    for key, values in reply[0].items():
        assert values.dtype == np.float32 and values.shape == (batch, HORIZON, len(values[0, 0]))
        np.testing.assert_array_equal(values, want[f"action.{key}"].astype(np.float32))


def test_http_and_n15_clients_get_the_same_actions(server: Server, policy: Policy) -> None:
    given = observed()
    alone = without_batch(flat(given))
    torch.manual_seed(7)
    want = policy.get_action(alone)
    torch.manual_seed(7)
    status, [actions, info] = post(server, json_numpy.dumps({"observation": given}).encode())
    assert status == 200 and info == {}
    reply = served(server, {"endpoint": "get_action", "data": alone}, "N1.5")
    for name, values in want.items():
        np.testing.assert_array_equal(reply[name], values)
        np.testing.assert_array_equal(actions[name.removeprefix("action.")][0], values.astype(np.float32))


def test_the_bytes_are_those_of_upstreams_client_and_server(server: Server, policy: Policy, golden_n17: Path) -> None:
    """The recorded request's own encoding with this policy's keys; the reply is read by upstream's rules alone."""
    recorded = bytes.fromhex(json.loads((golden_n17 / "wire.json").read_text())["n1.7_626af89"]["get_action_request"])
    request, _ = unpack(recorded)
    given = observed()
    given["video"] = {"ego_view": request["data"]["observation"]["video"]["front"]}
    packed = msgpack.packb({**request, "data": {"observation": given, "options": None}}, default=msgpack_numpy.encode)
    assert packed is not None and packed[:40] == recorded[:40]
    with connected(server) as client:
        torch.manual_seed(7)
        client.send(packed)
        answer = client.recv()
    torch.manual_seed(7)
    want = policy.get_action(
        {name: each[0] if isinstance(each, np.ndarray) else each for name, each in flat(given).items()}
    )
    theirs = [{name.removeprefix("action."): each[None].astype("<f4") for name, each in want.items()}, {}]
    assert answer == msgpack.packb(theirs, default=msgpack_numpy.encode)


def test_the_modality_config_is_upstreams(server: Server) -> None:
    served(server, {"endpoint": "get_action", "data": {"observation": observed()}})
    with connected(server) as client:
        ask(client, "N1.7", {"endpoint": "get_action", "data": {"observation": observed()}})
        found = ask(client, "N1.7", {"endpoint": "get_modality_config"})
    action = found["action"]
    assert action["__ModalityConfig__"] and action["as_json"] == {
        "delta_indices": list(range(HORIZON)),
        "modality_keys": ["right_arm", "right_hand"],
        "sin_cos_embedding_keys": None,
        "mean_std_embedding_keys": None,
        "action_configs": [
            {"rep": "RELATIVE", "type": "NON_EEF", "format": "DEFAULT", "state_key": None},
            {"rep": "ABSOLUTE", "type": "NON_EEF", "format": "DEFAULT", "state_key": None},
        ],
    }
    assert found["language"]["as_json"]["modality_keys"] == [ARM.language]


def test_an_observation_without_its_instruction_is_explained(server: Server) -> None:
    given = {**observed(), "language": {}}
    reply = served(server, {"endpoint": "get_action", "data": {"observation": given}})
    assert ARM.language in reply["error"]


@pytest.mark.parametrize("form", ["N1.6", "N1.7", "HTTP"])
def test_a_chunk_continues_the_one_before_as_the_request_asks(server: Server, policy: Policy, form: str) -> None:
    executed, frozen = 6, 4

    def act(observation: dict[str, Any], options: dict[str, Any] | None) -> dict[str, np.ndarray]:
        data = {"observation": observation, "options": options}
        if form == "HTTP":
            return post(server, json_numpy.dumps(data).encode())[1][0]
        return served(server, {"endpoint": "get_action", "data": data}, form)[0]

    first = act(observed(0), None)
    options = {"rtc_previous_actions": first, "rtc_executed_steps": executed, "rtc_frozen_steps": frozen}
    continued = act(observed(1), options)
    for key, values in continued.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values[:, :frozen], first[key][:, executed : executed + frozen])
        assert not np.array_equal(values[:, frozen:-executed], first[key][:, executed + frozen :])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("fast", "a map"),
        ({"rtc_overlap_steps": 8}, "no option rtc_overlap_steps; there are rtc_previous_actions"),
        ({"rtc_executed_steps": 3}, "map of arrays"),
        ({"rtc_previous_actions": {}, "rtc_executed_steps": 1.5}, "whole numbers"),
        ({"rtc_previous_actions": {}, "rtc_executed_steps": 1, "rtc_ramp_rate": "x"}, "is a number"),
        ({"rtc_previous_actions": {}, "rtc_executed_steps": 1}, "has no action.right_arm"),
        ({"rtc_previous_actions": {}, "rtc_executed_steps": 99}, "99 steps of the previous chunk"),
    ],
)
def test_options_that_do_not_fit_are_explained(server: Server, options: Any, words: str) -> None:
    reply = served(server, {"endpoint": "get_action", "data": {"observation": observed(), "options": options}})
    assert words in reply["error"]
    seed = {"endpoint": "get_action", "data": {"observation": observed(), "options": {"seed": 3}}}
    assert "right_arm" in served(server, seed)[0]  # somebody else's option
