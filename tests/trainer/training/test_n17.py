"""N1.7 through the engine's own loop: upstream's optimizer, a checkpoint that acts, and resuming bit for bit."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.golden_n17 import load_state, make_model
from tests.support.golden_steps import Twice, assert_weights_after_ten_steps, train_ten_steps
from tests.support.n17 import ARM, n17_training
from tests.support.training import assert_same, assert_same_training, interrupted
from tests.support.waiting import PATIENCE
from tests.trainer.training.conftest import shortened
from trainer.config.n17_config import N17Config
from trainer.data.config_file import to_json
from trainer.data.data_config import Feature
from trainer.data.n17 import processor_files
from trainer.data.synthetic import TASK_COLUMN, make_synthetic
from trainer.errors import PippaError, UsageError
from trainer.events import PhaseEvent, SavedEvent
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.tiny import make_tiny_base_model
from trainer.gr00t.policy import Policy
from trainer.training import finetune_trainer
from trainer.training.arguments import training_arguments
from trainer.training.devices import CPU_PROCESSES


def golden_trainer(model: Gr00tN1d7, golden: Path, folder: Path, **flags: Any) -> finetune_trainer.FinetuneTrainer:
    config = N17Config(dataset_path=["-"], global_batch_size=2, dataloader_num_workers=0, **flags)
    return finetune_trainer.FinetuneTrainer(
        model=model,
        args=training_arguments(config, folder),
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
    losses, norms = train_ten_steps(trainer, forward, monkeypatch)
    assert losses == pytest.approx(want["losses"], rel=0, abs=1e-4)
    assert norms == pytest.approx(want["grad_norm_before_clip"], rel=1e-3)
    assert_weights_after_ten_steps(model, golden_n17)


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


def test_it_resumes_bit_for_bit_and_acts(
    tiny_n17: Path, long_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    whole, parts = (n17_training(tmp_path / name, long_dataset, tiny_n17) for name in ("whole", "parts"))
    assert whole.run() == 0
    assert [event.step for event in whole.events if isinstance(event, SavedEvent)] == [2, 4, 6]
    said = [event.message for event in whole.events if isinstance(event, PhaseEvent)]
    [frames] = [int(found[1]) for text in said if (found := re.search(r"on (\d+) frames", text))]
    assert frames % 10, "a batch of an epoch is short"

    interrupted(parts, 4)
    assert parts.run(resume=True) == 0
    assert_same_training(parts, whole, 6)

    # Final model and checkpoint are read as upstream reads them, without anything of the base model.
    for folder in (whole.output_dir, whole.checkpoint(6)):
        files = processor_files.read(folder)
        assert files.data_config("new_embodiment").action == ARM.action
        assert files.settings.state_dropout_prob == 0.2
        assert json.loads((folder / "config.json").read_text())["state_dropout_prob"] == 0.2
        policy = Policy(folder, embodiment_tag="new_embodiment", device="cpu")
    assert acts(policy)


def acts(policy: Policy) -> bool:
    state = {f"state.{key}": np.zeros((1, width), np.float32) for key, width in (("right_arm", 7), ("right_hand", 6))}
    image = np.zeros((1, 256, 256, 3), np.uint8)
    actions = policy.get_action({"video.ego_view": image, **state, TASK_COLUMN: ["Pick it up."]})
    return actions["action.right_arm"].shape == (16, 7) and bool(np.isfinite(actions["action.right_hand"]).all())


@pytest.fixture(scope="module")
def even_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of four usable steps each."""
    return shortened(tmp_path_factory.mktemp("datasets") / "even", [19, 19], seed=0)


def test_adapters_resume_and_the_checkpoint_is_a_whole_model(
    tiny_n17: Path, even_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    flags = {"lora_rank": 4, "max_steps": 3, "save_steps": 1, "global_batch_size": 4, "holdout": "1"}
    whole = n17_training(tmp_path / "whole", even_dataset, tiny_n17, **flags)
    assert whole.run() == 0
    assert any("Held out: episode" in event.message for event in whole.events if isinstance(event, PhaseEvent))
    base = Gr00tN1d7.from_pretrained(tiny_n17).state_dict()
    weights = whole.weights(3)
    changed = {name for name, tensor in weights.items() if not torch.equal(tensor, base[name])}
    assert weights.keys() == base.keys() and any("to_k" in name for name in changed)
    assert not any(".ff." in name or name.startswith("backbone") for name in changed)
    assert acts(Policy(whole.checkpoint(3), embodiment_tag="new_embodiment", device="cpu"))

    whole.checkpoint(3).rename(whole.output_dir / "kept")
    assert whole.run(resume=True) == 0
    folders = (whole.output_dir / "kept", whole.checkpoint(3))
    assert_same(*[load_file(each / "adapter/adapter_model.safetensors") for each in folders], where="adapter")
    assert_same(*[torch.load(each / "optimizer.pt") for each in folders], where="optimizer")
    with pytest.raises(UsageError, match="was trained with LoRA"):
        whole.run(resume=True, lora_rank=0, max_steps=4)


@pytest.mark.slow
def test_two_processes_make_one(even_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Without dropout: what each rank drops out is its own.
    base_model = make_tiny_base_model(tmp_path / "tiny")
    flags = {"global_batch_size": 4, "max_steps": 3, "save_steps": 3, "state_dropout_prob": 0.0}
    one = n17_training(tmp_path / "one", even_dataset, base_model, **flags)
    assert one.run() == 0
    two = n17_training(tmp_path / "two", even_dataset, base_model, num_gpus=2, tune_llm=True, **flags)
    process = two.start({CPU_PROCESSES: "1"}, tune_llm=False)
    process.join(PATIENCE)
    assert process.exitcode == 0, two.log.read_text()
    assert two.checkpoint(3).joinpath("rng_state_1.pth").is_file()
    want = one.weights(3)
    for name, tensor in two.weights(3).items():
        torch.testing.assert_close(tensor, want[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embodiment_tag": "libero_sim"}, "libero_sim expects video.image"),
        ({"embodiment_tag": "GR2"}, "No embodiment tag of GR00T N1.7 is called 'GR2'"),
        ({"batch_size": 4}, "--batch-size is a flag of GR00T N1.5: GR00T N1.7 has --global-batch-size"),
        ({"data_config": to_json(replace(ARM, action_horizon=41))}, "predicts 41 steps at once"),
        ({"data_config": '{"name": "a", "vidoe": []}'}, "there is no key vidoe. Did you mean video?"),
        (
            {"data_config": to_json(replace(ARM, action=(Feature("right_arm", relative_to="right_hand"),)))},
            "action.right_arm has 7 dimensions, but state.right_hand, which it is relative to, has 6",
        ),
    ],
)
def test_what_can_not_be_trained_is_refused_before_torch(
    change: dict[str, Any],
    said: str,
    tiny_n17: Path,
    even_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("trainer.training.finetuning.train", lambda *_: pytest.fail("it went on"))
    training = n17_training(tmp_path / "out", even_dataset, tiny_n17)
    if "embodiment_tag" in change:
        del training.flags["data_config"]
    with pytest.raises(PippaError) as refused:
        training.run(**change)
    assert said in str(refused.value)
    assert refused.value.hint


def test_files_of_another_model_are_named(
    tiny_n17: Path, even_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    other = shutil.copytree(tiny_n17, tmp_path / "other")
    document = json.loads((other / "processor_config.json").read_text())
    document["processor_kwargs"]["max_action_horizon"] = 8
    (other / "processor_config.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"processor_config\.json has max_action_horizon 8; .*config\.json means 40"):
        n17_training(tmp_path / "out", even_dataset, other).run()
