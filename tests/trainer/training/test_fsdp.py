"""FSDP2: the same training as with DDP, the same checkpoints, and a share of it in each process.

On two processes, and on four: all of them divide the model, or two and two (hybrid sharding).
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.support.n17 import n17_training
from tests.support.ranks import Part, train_together
from tests.support.training import Training, assert_same_training, small_training
from tests.support.waiting import PATIENCE
from tests.trainer.training.conftest import shortened
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.n17_config import N17Config
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.gr00t.n17.tiny import make_tiny_base_model as make_tiny_n17
from trainer.runner import checkpoint_folder
from trainer.training import arguments
from trainer.training.devices import CPU_PROCESSES

Trainings = Mapping[str, Training]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, even_dataset: Path) -> Trainings:
    """N1.5, all of it trained, in bfloat16 and float32 as the official model."""
    folder = tmp_path_factory.mktemp("fsdp")
    model = make_tiny_base_model(folder / "tiny")
    document = json.loads((model / "config.json").read_text())
    document["eagle_config"]["torch_dtype"] = "bfloat16"
    (model / "config.json").write_text(json.dumps(document))
    ddp = small_training(
        folder / "ddp",
        even_dataset,
        model,
        batch_size=1,
        gradient_accumulation_steps=2,
        tune_llm=True,
        tune_visual=True,
    )
    made = {"ddp": ddp, **{name: ddp.in_folder(name, fsdp=True) for name in ("fsdp", "parts", "fsdp from ddp")}}
    made["ddp from fsdp"] = ddp.in_folder("ddp from fsdp")
    together(
        folder,
        [
            *(Part(made[name]) for name in ("ddp", "fsdp")),
            *(Part(made[name], made["fsdp"].checkpoint(2)) for name in ("parts", "ddp from fsdp")),
            Part(made["fsdp from ddp"], ddp.checkpoint(2)),
        ],
    )
    return made


def n17_with_ddp(folder: Path) -> Training:
    """Four steps of N1.7 on a small dataset, both made in ``folder``."""
    return n17_training(
        folder / "n17-ddp",
        shortened(folder / "longer", [20, 20], seed=0),
        make_tiny_n17(folder / "tiny-n17"),
        max_steps=4,
        global_batch_size=4,
    )


@pytest.fixture(scope="module")
def on_four(trained: Trainings, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """The same on four processes, with the same global batch, from the start or from what others left half-way."""
    folder = tmp_path_factory.mktemp("four")
    plain = Training({**trained["ddp"].flags, "output_dir": folder / "plain", "gradient_accumulation_steps": 1})
    n17 = n17_with_ddp(folder)
    hybrid = {"fsdp": True, "fsdp_devices": 2}
    one = trained["ddp"].in_folder("one process", gradient_accumulation_steps=4)
    with environment(folder) as patch:
        patch.setattr(arguments, "LOGGING_STEPS", 1)
        assert one.run(num_gpus=1) == 0
    made = {"hybrid": plain.in_folder("hybrid", **hybrid), "n17-ddp": n17}
    made["n17-hybrid"] = n17.in_folder("n17-hybrid", **hybrid)
    half = made["hybrid"].checkpoint(2)
    resumed = {
        "parts": (hybrid, half),
        "fsdp from hybrid": ({"fsdp": True}, half),
        "hybrid from one process": (hybrid, one.checkpoint(2)),
    }
    parts = [Part(training) for training in made.values()]
    for name, (changes, checkpoint) in resumed.items():
        made[name] = plain.in_folder(name, **changes)
        parts.append(Part(made[name], checkpoint))
    together(folder, parts, count=4)
    return made


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, even_dataset: Path, base_model: Path) -> Trainings:
    """LoRA, and N1.7 with its frozen backbone; both with dropout, all in float32."""
    folder = tmp_path_factory.mktemp("fsdp-others")
    # Of rank 1, an adapter's first matrix has one row: one process holds it, the other nothing.
    lora = small_training(folder / "lora-ddp", even_dataset, base_model, lora_rank=1, lora_full_model=True)
    n17 = n17_with_ddp(folder)
    made = {"lora-ddp": lora, "n17-ddp": n17}
    made |= {"lora-fsdp": lora.in_folder("lora-fsdp", fsdp=True), "n17-fsdp": n17.in_folder("n17-fsdp", fsdp=True)}
    made["lora-parts"] = lora.in_folder("lora-parts", fsdp=True)
    parts = [Part(made[name]) for name in ("lora-ddp", "lora-fsdp", "n17-ddp", "n17-fsdp")]
    parts.append(Part(made["lora-parts"], made["lora-fsdp"].checkpoint(2)))
    for kind in ("lora", "n17"):
        for name, changes, checkpoint in (
            (f"{kind}-fsdp from ddp", {"fsdp": True}, made[f"{kind}-ddp"].checkpoint(2)),
            (f"{kind}-ddp from fsdp", {}, made[f"{kind}-fsdp"].checkpoint(2)),
        ):
            made[name] = made[f"{kind}-ddp"].in_folder(name, **changes)
            parts.append(Part(made[name], checkpoint))
    together(folder, parts)
    return made


@contextlib.contextmanager
def environment(folder: Path) -> Generator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPPA_HOME", str(folder / "home"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield patch


def together(folder: Path, parts: list[Part], count: int = 2) -> None:
    with environment(folder):
        train_together(parts, folder / "log", count)


@pytest.mark.slow
def test_losses_norms_and_weights_are_those_of_ddp(trained: Trainings) -> None:
    for ours in ("fsdp", "ddp from fsdp", "fsdp from ddp"):
        assert_trained_as(trained[ours], trained["ddp"])
    assert_share_of(trained["fsdp"], trained["ddp"])


@pytest.mark.slow
def test_on_four_processes_all_or_two_and_two_divide_the_model(trained: Trainings, on_four: Trainings) -> None:
    for name, ours in on_four.items():
        if not name.startswith("n17"):
            assert_trained_as(ours, trained["ddp"])
    assert_same_training(on_four["parts"], on_four["hybrid"], 4)
    assert_share_of(on_four["hybrid"], trained["ddp"], ranks=4)
    assert_share_of(on_four["fsdp from hybrid"], trained["ddp"], ranks=4, share=0.25)


@pytest.mark.slow
def test_the_newer_generation_is_divided_in_groups_too(on_four: Trainings) -> None:
    hybrid, ddp = on_four["n17-hybrid"], on_four["n17-ddp"]
    assert_same_steps(hybrid, ddp, losses=1e-6, norms=1e-5)
    assert_close(hybrid.weights(4), ddp.weights(4), within=1e-5)
    assert layout(hybrid.checkpoint(4)) == layout(ddp.checkpoint(4))
    assert_share_of(hybrid, ddp, ranks=4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "n17"])
def test_lora_and_the_newer_generation_train_as_with_ddp(others: Trainings, kind: str) -> None:
    fsdp, ddp = others[f"{kind}-fsdp"], others[f"{kind}-ddp"]
    for ours in (fsdp, others[f"{kind}-fsdp from ddp"], others[f"{kind}-ddp from fsdp"]):
        assert_same_steps(ours, ddp, losses=1e-6, norms=1e-5)
        assert_close(ours.weights(4), ddp.weights(4), within=1e-5)
        assert layout(ours.checkpoint(4)) == layout(ddp.checkpoint(4))
    # What is frozen comes first, in the same bytes: the store has it once.
    frozen = min(ddp.checkpoint(4).glob("model-*.safetensors"))
    assert (fsdp.checkpoint(4) / frozen.name).read_bytes() == frozen.read_bytes()
    assert_share_of(fsdp, ddp)


@pytest.mark.slow
def test_resumed_adapters_are_bit_for_bit_the_uninterrupted(others: Trainings) -> None:
    assert_same_training(others["lora-parts"], others["lora-fsdp"], 4)


@pytest.mark.slow
def test_a_resumed_training_is_bit_for_bit_the_uninterrupted(trained: Trainings) -> None:
    assert_same_training(trained["parts"], trained["fsdp"], 4)


@pytest.mark.slow
def test_one_process_without_fsdp_goes_on(trained: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fsdp, one = trained["fsdp"], trained["fsdp"].in_folder("one")
    shutil.copytree(fsdp.checkpoint(2), one.checkpoint(2))
    assert one.run(num_gpus=1, fsdp=False, gradient_accumulation_steps=4, resume=True) == 0
    assert_close(one.weights(4), fsdp.weights(4), within=5e-4)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_training_as_a_failed_engine(training: Callable[..., Training]) -> None:
    killed = training("killed", num_gpus=2, fsdp=True, max_steps=10_000, save_steps=2)
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


@pytest.mark.parametrize("config", [FinetuneConfig, N17Config])
def test_groups_that_gpus_do_not_make_are_refused_with_the_cure(config: type[FinetuneConfig]) -> None:
    two_machines = {"dataset_path": ["-"], "num_nodes": 2, "num_gpus": 4}
    assert [config(**two_machines, fsdp=True, fsdp_devices=group).shards for group in (0, 2, 4, 8)] == [8, 2, 4, 8]
    assert config(**two_machines).shards == 1
    for group in (1, 3, 16):
        with pytest.raises(ValueError, match="a divisor of 8 above 1"):
            config(**two_machines, fsdp=True, fsdp_devices=group)
    with pytest.raises(ValueError, match="--fsdp divides"):
        config(**two_machines, fsdp_devices=4)


def assert_trained_as(ours: Training, ddp: Training) -> None:
    """A step of AdamW is about as large as what bfloat16 rounds: where two ways to sum differ by a bit, weights do."""
    assert_same_steps(ours, ddp, losses=5e-4, norms=2e-3)
    assert history(ours)[0]["loss"] == pytest.approx(history(ddp)[0]["loss"], rel=1e-6)
    assert_close(ours.weights(4), ddp.weights(4), within=5e-4)
    states = re.compile(r"rng_state.*")  # one for each process
    found, want = (
        {file: kinds for file, kinds in layout(each.checkpoint(4)).items() if not states.fullmatch(file)}
        for each in (ours, ddp)
    )
    assert found == want


def history(training: Training) -> list[dict[str, float]]:
    """What was logged of each of the four steps."""
    logged = json.loads((training.checkpoint(4) / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in logged if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    return entries


def assert_same_steps(ours: Training, theirs: Training, *, losses: float, norms: float) -> None:
    """The same losses and norms of the gradients but for the order of sums, so much at the most, relative."""
    for entry, want in zip(history(ours), history(theirs), strict=True):
        assert want["grad_norm"] > 1, "nothing is clipped"
        assert entry["loss"] == pytest.approx(want["loss"], rel=losses)
        assert entry["grad_norm"] == pytest.approx(want["grad_norm"], rel=norms)


def assert_share_of(ours: Training, whole: Training, ranks: int = 2, share: float = 0.5) -> None:
    """Each process holds about its share of the parameters and moments, all of which each holds in ``whole``."""
    all_of_it, other = (json.loads((whole.output_dir / f"held-{rank}.json").read_text()) for rank in range(2))
    assert all_of_it == other
    for rank in range(ranks):
        own = json.loads((ours.output_dir / f"held-{rank}.json").read_text())
        for kind, held in own.items():
            assert 0.9 * share < held / all_of_it[kind] < 1.1 * share, (rank, kind)


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
