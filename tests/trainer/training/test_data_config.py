"""A data config of one's own, with another horizon and width than the base model's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.training import Training
from trainer.errors import UsageError
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.policy import Policy

MakeTraining = Callable[..., Training]

MODULE = """
from dataclasses import replace

from trainer.data.configs import DATA_CONFIGS

GR1 = DATA_CONFIGS["fourier_gr1_arms_only"]
LONGER = replace(GR1, name="longer", action_horizon=24, max_action_dim=40)
WIDER_STATE = replace(GR1, name="wider_state", max_state_dim=80)
"""


@pytest.fixture(autouse=True)
def my_robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``my_robot.py`` in the current folder."""
    (tmp_path / "my_robot.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("my_robot", None)
    yield
    sys.modules.pop("my_robot", None)


def test_another_horizon_and_width_train_and_load_back(training: MakeTraining) -> None:
    longer = training("longer", data_config="my_robot:LONGER", max_steps=2)
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
    policy = Policy(longer.checkpoint(3), "my_robot:LONGER", "new_embodiment", device="cpu")
    assert policy.model.config.action_horizon == 24


def test_a_wider_state_than_the_models_is_refused(training: MakeTraining) -> None:
    with pytest.raises(UsageError, match="max_state_dim 80"):
        training("wider", data_config="my_robot:WIDER_STATE").run()
