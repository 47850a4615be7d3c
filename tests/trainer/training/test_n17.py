"""N1.7 through the engine's own loop: upstream's optimizer, a checkpoint that acts, and resuming bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from tests.support.golden_n17 import load_state, make_model
from tests.support.training import PowerCutError, Training, assert_same_training, power_cut_after
from trainer.config.finetune_config import FinetuneConfig
from trainer.data.data_config import DataConfig, Feature
from trainer.data.n17 import processor_files
from trainer.data.synthetic import TASK_COLUMN, make_synthetic
from trainer.errors import UsageError
from trainer.events import Event, SavedEvent
from trainer.gr00t.base_model import N17
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.tiny import make_tiny_base_model
from trainer.gr00t.policy import Policy
from trainer.training import finetune_trainer
from trainer.training.arguments import training_arguments
from trainer.training.n17 import make_trainer

ARM = DataConfig(
    name="one_arm",
    video=("ego_view",),
    state=(Feature("right_arm"), Feature("right_hand")),
    action=(Feature("right_arm", relative_to="right_arm"), Feature("right_hand")),
    language=TASK_COLUMN,
)


class Twice(Dataset[int]):
    """Two samples, a batch; the collator of the test knows which."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return index

    def set_epoch(self, epoch: int) -> None:
        pass


def golden_trainer(model: Gr00tN1d7, golden: Path, folder: Path, **flags: Any) -> finetune_trainer.FinetuneTrainer:
    config = FinetuneConfig(dataset_path=["-"], batch_size=2, dataloader_num_workers=0, **flags)
    return finetune_trainer.FinetuneTrainer(
        model=model,
        args=training_arguments(config, folder, generation=N17),
        train_dataset=Twice(),
        data_collator=lambda _: load_file(golden / "batch_A.safetensors"),
        processor=cast(Any, None),
        experiment_cfg=None,
        callbacks=[],
    )


def test_ten_steps(golden_n17: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = json.loads((golden_n17 / "results.json").read_text())["adamw_10_steps_batch_A_fixed_noise"]
    # The engine trains in training mode, upstream's ten steps were made in evaluation mode.
    config = json.loads((golden_n17 / "tiny_model_config.json").read_text())["gr00t_config"]
    parts = {part: {**config[part], "dropout": 0.0} for part in ("diffusion_model_cfg", "vl_self_attention_cfg")}
    model = make_model(golden_n17, load_state(golden_n17), upstream_exact=True, state_dropout_prob=0.0, **parts)
    trainer = golden_trainer(model, golden_n17, tmp_path, max_steps=10, learning_rate=5e-4, weight_decay=0.0)
    forward = load_file(golden_n17 / "forward_A.safetensors")
    monkeypatch.setattr(finetune_trainer, "draw_noise", lambda *_, **__: (forward["noise"], forward["t"]))
    trainer.args.lr_scheduler_type = cast(Any, "constant")
    trainer.args.logging_steps = trainer.state.logging_steps = 1
    trainer.args.save_strategy = cast(Any, "no")
    trainer.train()

    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in steps] == pytest.approx(want["losses"], rel=0, abs=1e-4)
    assert [entry["grad_norm"] for entry in steps] == pytest.approx(want["grad_norm_before_clip"], rel=1e-3)
    state = model.state_dict()
    for name, value in load_file(golden_n17 / "adamw_after_10_steps_selected.safetensors").items():
        torch.testing.assert_close(state[name], value, atol=1e-4, rtol=0)


def test_weight_decay_spares_what_upstream_spares(golden_n17: Path, tmp_path: Path) -> None:
    want = json.loads((golden_n17 / "results.json").read_text())["weight_decay_groups"]
    model = make_model(golden_n17, load_state(golden_n17))
    model.set_trainable(True, True, True, True)
    trainer = golden_trainer(model, golden_n17, tmp_path, weight_decay=0.01)
    groups = trainer.create_optimizer().param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {group["weight_decay"]: {names[id(each)] for each in group["params"]} for group in groups}
    head = {weight: {name for name in names if name.startswith("action_head.")} for weight, names in found.items()}
    assert head == {0.01: set(want["decay"]), 0.0: set(want["no_decay"])}
    assert found[0.0] - head[0.0] == set(want["no_decay_backbone_when_tuned"])
    assert {group["betas"] for group in groups} == {(0.9, 0.999)}
    assert {group["eps"] for group in groups} == {1e-8}


@pytest.fixture(scope="module")
def tiny_n17(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base model of N1.7, with upstream's dropout."""
    path = make_tiny_base_model(tmp_path_factory.mktemp("models") / "tiny-n17")
    config = json.loads((path / "config.json").read_text())
    for part in ("diffusion_model_cfg", "vl_self_attention_cfg"):
        config[part]["dropout"] = 0.2
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def long_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("datasets") / "long", episodes=1)


def config_of(folder: Path, dataset: Path, base_model: Path, **flags: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "dataset_path": [str(dataset)],
        "base_model_path": str(base_model),
        "output_dir": str(folder),
        "data_config": ARM,
        "batch_size": 10,
        "max_steps": 6,
        "save_steps": 2,
        "dataloader_num_workers": 0,
        "learning_rate": 1e-3,
    }
    return FinetuneConfig(**{**values, **flags})


def test_it_resumes_bit_for_bit_and_acts(
    tiny_n17: Path, long_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    heard: list[Event] = []
    whole = config_of(tmp_path / "whole", long_dataset, tiny_n17)
    trainer = make_trainer(whole, emit=heard.append)
    assert len(cast(Any, trainer.train_dataset)) % 10, "no batch of an epoch is short"
    trainer.train()
    trainer.save_final()
    assert [event.step for event in heard if isinstance(event, SavedEvent)] == [2, 4, 6]

    parts = config_of(tmp_path / "parts", long_dataset, tiny_n17)
    with power_cut_after(4), pytest.raises(PowerCutError):
        make_trainer(parts).train()
    stopped = tmp_path / "parts" / "checkpoint-4"
    resumed = make_trainer(parts, resume_from=stopped)
    resumed.train(resume_from_checkpoint=str(stopped))
    ours, theirs = (Training({"output_dir": tmp_path / name}) for name in ("parts", "whole"))
    ours.alone = theirs.alone = False
    assert_same_training(ours, theirs, 6)

    # Final model and checkpoint are read as upstream reads them, without anything of the base model.
    for folder in (tmp_path / "whole", tmp_path / "whole" / "checkpoint-6"):
        files = processor_files.read(folder)
        assert files.data_config("new_embodiment").action == ARM.action
        assert files.settings.state_dropout_prob == 0.2
        assert json.loads((folder / "config.json").read_text())["state_dropout_prob"] == 0.2
        policy = Policy(folder, embodiment_tag="new_embodiment", device="cpu")
    state = {f"state.{key}": np.zeros((1, width), np.float32) for key, width in (("right_arm", 7), ("right_hand", 6))}
    actions = policy.get_action(
        {
            "video.ego_view": np.zeros((1, 256, 256, 3), np.uint8),
            **state,
            TASK_COLUMN: ["Pick it up."],
        }
    )
    assert actions["action.right_arm"].shape == (16, 7)


@pytest.mark.parametrize(
    ("flags", "named"), [({"lora_rank": 8}, "--lora-rank"), ({"holdout": "1", "num_gpus": 2}, "--holdout, --num-gpus")]
)
def test_what_is_not_supported_yet_is_refused(flags: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"GR00T N1.7 is not trained with {named} yet"):
        make_trainer(config_of(tmp_path, tmp_path, tmp_path, **flags))
