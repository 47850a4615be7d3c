"""FSDP2 on two processes: the same training as with DDP, the same checkpoints, and half of it in each process."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.support.n17 import n17_training
from tests.support.ranks import Part, train_on_two
from tests.support.training import Training, assert_same_training, small_training
from tests.support.waiting import PATIENCE
from tests.trainer.training.conftest import shortened
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.n17_config import N17Config
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.gr00t.n17.tiny import make_tiny_base_model as make_tiny_n17
from trainer.runner import checkpoint_folder
from trainer.training.devices import CPU_PROCESSES

Trainings = Mapping[str, Training]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, even_dataset: Path) -> Iterator[Trainings]:
    """All of N1.5 trained, in bfloat16 and float32 as the official model; LoRA; N1.7 with its frozen backbone."""
    folder = tmp_path_factory.mktemp("fsdp")
    model, newer = make_tiny_base_model(folder / "tiny"), make_tiny_n17(folder / "tiny-n17")
    mixed = make_tiny_base_model(folder / "tiny-bf16")
    document = json.loads((mixed / "config.json").read_text())
    document["eagle_config"]["torch_dtype"] = "bfloat16"
    (mixed / "config.json").write_text(json.dumps(document))
    longer = shortened(folder / "longer", [20, 20], seed=0)
    whole: dict[str, Any] = {
        "base_model": mixed,
        "batch_size": 1,
        "gradient_accumulation_steps": 2,
        "tune_llm": True,
        "tune_visual": True,
    }
    # Of rank 1, an adapter's first matrix has one row: one process holds it, the other nothing.
    lora = {"lora_rank": 1, "lora_full_model": True}

    def n15(name: str, base_model: Path = model, **flags: object) -> Training:
        return small_training(folder / name, even_dataset, base_model, **flags)

    def n17(name: str, **flags: object) -> Training:
        return n17_training(folder / name, longer, newer, max_steps=2, save_steps=2, global_batch_size=4, **flags)

    made = {
        "ddp": n15("ddp", **whole),
        "fsdp": n15("fsdp", **whole, fsdp=True),
        "parts": n15("parts", **whole, fsdp=True),
        "crossed": n15("crossed", **whole, fsdp=True),
        "lora-ddp": n15("lora-ddp", **lora),
        "lora-fsdp": n15("lora-fsdp", **lora, fsdp=True),
        "n17-ddp": n17("n17-ddp"),
        "n17-fsdp": n17("n17-fsdp", fsdp=True),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPPA_HOME", str(tmp_path_factory.getbasetemp() / "pippa-home"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        cut = [Part(made[name], power_cut=2) for name in ("parts", "crossed", "lora-fsdp")]
        rest = [Part(made["parts"], resume=True), Part(made["crossed"], resume=True, fsdp=False)]
        uncut = [Part(made[name]) for name in ("ddp", "fsdp", "lora-ddp", "n17-ddp", "n17-fsdp")]
        train_on_two([*uncut, *cut, *rest, Part(made["lora-fsdp"], resume=True)], folder / "log")
        yield made


PAIRS = [("fsdp", "ddp", 4), ("crossed", "ddp", 4), ("lora-fsdp", "lora-ddp", 4), ("n17-fsdp", "n17-ddp", 2)]
MIXED = ("fsdp", "crossed")
"""A step of AdamW is about as large as what bfloat16 rounds: where two ways to sum differ by a bit, so do weights."""


@pytest.mark.parametrize(("ours", "theirs", "step"), PAIRS)
def test_losses_norms_and_weights_are_those_of_ddp(trained: Trainings, ours: str, theirs: str, step: int) -> None:
    mixed = ours in MIXED
    for entry, want in zip(history(trained[ours], step), history(trained[theirs], step), strict=True):
        exact = entry["step"] <= 2 or not mixed
        assert want["grad_norm"] > 1, "nothing is clipped"
        assert entry["loss"] == pytest.approx(want["loss"], rel=1e-6 if exact else 5e-4)
        assert entry["grad_norm"] == pytest.approx(want["grad_norm"], rel=2e-3 if mixed else 5e-6)
    assert_close(trained[ours].weights(step), trained[theirs].weights(step), within=5e-4 if mixed else 5e-6)


@pytest.mark.parametrize(("ours", "theirs", "step"), PAIRS)
def test_checkpoints_are_laid_out_as_those_of_ddp(trained: Trainings, ours: str, theirs: str, step: int) -> None:
    first, second = (trained[name].checkpoint(step) for name in (ours, theirs))
    assert layout(first) == layout(second)
    if ours in ("lora-fsdp", "n17-fsdp"):  # what is frozen comes first, in the same bytes: the store has it once
        frozen = min(first.glob("model-*.safetensors"))
        assert frozen.read_bytes() == (second / frozen.name).read_bytes()


def test_a_resumed_training_is_bit_for_bit_the_uninterrupted(trained: Trainings) -> None:
    assert_same_training(trained["parts"], trained["fsdp"], 4)


def test_each_process_holds_half(trained: Trainings) -> None:
    for ours, theirs in (("fsdp", "ddp"), ("lora-fsdp", "lora-ddp"), ("n17-fsdp", "n17-ddp")):
        whole = held(trained[theirs], 0)
        for rank in (0, 1):
            for kind, share in held(trained[ours], rank).items():
                assert share < 0.55 * whole[kind], (ours, rank, kind)


def test_one_process_without_fsdp_goes_on(trained: Trainings) -> None:
    fsdp, one = trained["fsdp"], trained["fsdp"].in_folder("one")
    shutil.copytree(fsdp.checkpoint(2), one.checkpoint(2))
    assert one.run(num_gpus=1, fsdp=False, gradient_accumulation_steps=4, resume=True) == 0
    assert_close(one.weights(4), fsdp.weights(4), within=5e-4)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_training_as_a_failed_engine(training: Callable[..., Training]) -> None:
    killed = training("killed", num_gpus=2, fsdp=True, max_steps=200, save_steps=2)
    process = killed.start({CPU_PROCESSES: "1"})
    killed.wait_for_event("saved", process)
    ranks = [each for each in psutil.Process(process.pid).children() if "trainer.finetune" in each.cmdline()]
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGKILL)
    process.join(PATIENCE)
    assert process.exitcode == 7, killed.log.read_text()
    assert "The engine was killed (SIGKILL)" in killed.log.read_text()
    _, alive = psutil.wait_procs(ranks, timeout=PATIENCE)
    assert not alive
    step = killed.steps[-1]
    assert checkpoint_folder.resume_problem(killed.checkpoint(step), step) is None


@pytest.mark.parametrize("config", [FinetuneConfig, N17Config])
def test_one_gpu_is_refused_with_the_cure(config: type[FinetuneConfig]) -> None:
    with pytest.raises(ValueError, match="--num-gpus 2"):
        config(dataset_path=["-"], fsdp=True)
    assert config(dataset_path=["-"], fsdp=True, num_nodes=2).fsdp


def history(training: Training, step: int) -> list[dict[str, float]]:
    """What was logged of every step."""
    logged = json.loads((training.checkpoint(step) / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in logged if "loss" in entry]
    assert [entry["step"] for entry in entries] == list(range(1, step + 1))
    return entries


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], within: float) -> None:
    """Equal but for the order of sums."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], atol=within, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


def layout(checkpoint: Path) -> dict[str, Any]:
    """Every file, and the names, shapes and dtypes of the tensors in it."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        name = str(file.relative_to(checkpoint))
        if file.suffix == ".safetensors":
            found[name] = {key: kind(tensor) for key, tensor in load_file(file).items()}
        elif file.suffix in (".pt", ".pth"):
            found[name] = kind(torch.load(file, weights_only=False))
        else:
            found[name] = file.suffix
    return found


def kind(tree: Any) -> Any:
    """``tree`` with the type of each value in its place, and shape and dtype of each tensor."""
    if isinstance(tree, torch.Tensor):
        return type(tree), tuple(tree.shape), tree.dtype
    if isinstance(tree, dict):
        return {key: kind(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [kind(value) for value in tree]
    return type(tree)


def held(training: Training, rank: int) -> dict[str, int]:
    """Bytes of parameters and moments that a process held."""
    return json.loads((training.output_dir / f"held-{rank}.json").read_text())
