"""A data config of one's own, with another horizon and width than the base model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.so101 import make_so101
from tests.support.training import Training
from trainer.data.config_file import to_toml
from trainer.data.configs import DATA_CONFIGS
from trainer.data.known_robots import to_json
from trainer.data.proposal import propose
from trainer.errors import UsageError
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.policy import Policy

MakeTraining = Callable[..., Training]


@pytest.fixture
def declared(tmp_path: Path) -> Callable[..., str]:
    """The file of a data config that differs from GR1's in what it is given."""

    def declare(name: str, **changes: int) -> str:
        file = tmp_path / f"{name}.toml"
        file.write_text(to_toml(replace(DATA_CONFIGS["fourier_gr1_arms_only"], name=name, **changes)))
        return str(file)

    return declare


def test_another_horizon_and_width_train_and_load_back(training: MakeTraining, declared: Callable[..., str]) -> None:
    file = declared("longer", action_horizon=24, max_action_dim=40)
    longer = training("longer", data_config=file, max_steps=2)
    assert longer.run() == 0
    config = json.loads((longer.checkpoint(2) / "config.json").read_text())
    assert (config["action_horizon"], config["action_dim"]) == (24, 40)
    head = config["action_head_cfg"]
    assert (head["action_horizon"], head["action_dim"], head["max_action_dim"]) == (24, 40, 40)

    model = GR00TN15.from_pretrained(longer.checkpoint(2))
    base = GR00TN15.from_pretrained(longer.flags["base_model_path"])
    assert model.action_head.action_encoder.W1.W.shape[1] == 40
    assert model.action_head.action_decoder.layer2.W.shape[2] == 40
    # Upstream forgets the action encoder's first layer here; of the embodiments not trained nothing is lost.
    assert torch.equal(model.action_head.action_encoder.W1.W[24, :32], base.action_head.action_encoder.W1.W[24])
    assert torch.equal(
        model.action_head.action_decoder.layer2.W[24, :, :32], base.action_head.action_decoder.layer2.W[24]
    )

    assert longer.run(resume=True, max_steps=3) == 0
    policy = Policy(longer.checkpoint(3), file, "new_embodiment", device="cpu")
    assert policy.model.config.action_horizon == 24


def test_a_wider_state_than_the_models_is_refused(training: MakeTraining, declared: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="max_state_dim 80"):
        training("wider", data_config=declared("wider", max_state_dim=80)).run()


def test_what_is_proposed_for_a_dataset_trains(training: MakeTraining, tmp_path: Path) -> None:
    folder = make_so101(tmp_path / "robot", ("left", "right"), episodes=1)
    proposal = propose(folder, "robot")
    (folder / "meta/modality.json").write_text(to_json(proposal.modality))
    (tmp_path / "robot.toml").write_text(to_toml(proposal.config))
    config = str(tmp_path / "robot.toml")
    trained = training("proposed", dataset_path=[folder], data_config=config, max_steps=2)
    assert trained.run() == 0 and trained.steps == [2]
    assert Policy(trained.checkpoint(2), device="cpu").data_config == proposal.config
