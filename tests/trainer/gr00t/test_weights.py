"""Checkpoints on disk: what is written, what is read back, what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.errors import UsageError
from trainer.gr00t.n15.model import EMBEDDINGS, GR00TN15, LM_HEAD, resize_action_head
from trainer.gr00t.n15.processor import EagleProcessor

State = dict[str, torch.Tensor]


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.fixture
def single(tiny: Path, tmp_path: Path) -> Callable[[Callable[[State], object]], Path]:
    """Makes a copy of the tiny model in one file, its tensors changed by a function."""

    def make(change: Callable[[State], object]) -> Path:
        folder = tmp_path / "single"
        folder.mkdir()
        shutil.copy(tiny / "config.json", folder)
        state = GR00TN15.from_pretrained(tiny).state_dict()
        change(state)
        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, folder / "model.safetensors")
        return folder

    return make


def assert_same(one: GR00TN15, other: GR00TN15) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    for (name, ours_buffer), (_, theirs_buffer) in zip(one.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(ours_buffer, theirs_buffer), name


def test_save_and_load_give_the_same_model(tiny: Path, tmp_path: Path, batch: State) -> None:
    model = GR00TN15.from_pretrained(tiny)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path)
    again = GR00TN15.from_pretrained(tmp_path)
    assert_same(model, again)
    assert not again.training
    noise = torch.randn(4, 16, 32)
    assert torch.equal(model.get_action(batch, noise)["action_pred"], again.get_action(batch, noise)["action_pred"])


def test_loading_builds_what_construction_builds(tiny: Path) -> None:
    """Built on the meta device, the buffers no file holds must come out as in a model built in memory."""
    loaded = GR00TN15.from_pretrained(tiny)
    built = GR00TN15(loaded.config)
    built.load_state_dict(loaded.state_dict())
    assert_same(built, loaded)


def test_upstream_exact_is_set_at_any_time_and_saved(tiny: Path, tmp_path: Path, batch: State) -> None:
    """A policy must act as its model was trained. The batch's prompts differ in length."""
    assert not GR00TN15.from_pretrained(tiny).config.upstream_exact
    model, noise = GR00TN15.from_pretrained(tiny), torch.randn(4, 16, 32)
    masked = model.get_action(batch, noise)["action_pred"]
    model.config.upstream_exact = True
    exact = model.get_action(batch, noise)["action_pred"]
    assert not torch.allclose(exact, masked)
    model.save_pretrained(tmp_path)
    assert torch.equal(GR00TN15.from_pretrained(tmp_path).get_action(batch, noise)["action_pred"], exact)


def test_layout_is_the_standard_sharded_one(tiny: Path) -> None:
    index = json.loads((tiny / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    tensors = {file: load_file(tiny / file) for file in files}
    assert {name: file for file, names in tensors.items() for name in names} == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(
        t.numel() * t.element_size() for names in tensors.values() for t in names.values()
    )
    assert all(name.startswith("backbone.") for name in tensors[files[0]])
    assert all(name.startswith("action_head.") for name in tensors[files[1]])
    assert {file.stat().st_mode for file in tiny.iterdir()} == {(tiny / "config.json").stat().st_mode}
    config = json.loads((tiny / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("gr00t_n1_5", ["GR00T_N1_5"])
    assert config["action_head_cfg"]["diffusion_model_cfg"]["norm_type"] == "ada_norm"


def test_a_step_changes_the_trained_shard_only(tiny: Path, tmp_path: Path, batch: State) -> None:
    model = GR00TN15.from_pretrained(tiny).train()
    model.save_pretrained(tmp_path / "0")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(batch)["loss"].backward()
    optimizer.step()
    model.save_pretrained(tmp_path / "1")
    before, after = digests(tmp_path / "0"), digests(tmp_path / "1")
    assert [name for name in before if before[name] != after[name]] == ["model-00002-of-00002.safetensors"]
    assert before["model-00001-of-00002.safetensors"] == digests(tiny)["model-00001-of-00002.safetensors"]


def test_shards_are_bounded(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.gr00t.weights._SHARD_BYTES", 2_000_000)
    model = GR00TN15.from_pretrained(tiny)
    model.save_pretrained(tmp_path)
    sizes = [file.stat().st_size for file in tmp_path.glob("*.safetensors")]
    biggest = max(p.numel() * 4 for p in model.parameters())
    assert len(sizes) > 4 and max(sizes) < max(2_000_000, biggest) + 50_000
    assert_same(model, GR00TN15.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: None,
        lambda state: state.update({LM_HEAD: state[EMBEDDINGS]}),
        lambda state: state.update({LM_HEAD: state.pop(EMBEDDINGS)}),
        lambda state: [state.update({f"_groot_model.{name}": state.pop(name)}) for name in list(state)],
    ],
    ids=["without lm_head", "with both", "lm_head only", "saved by LeRobot"],
)
def test_every_form_of_the_weights_loads(
    tiny: Path, single: Callable[[Callable[[State], object]], Path], change: Callable[[State], object]
) -> None:
    assert_same(GR00TN15.from_pretrained(single(change)), GR00TN15.from_pretrained(tiny))


def test_dtypes(tiny: Path, tmp_path: Path) -> None:
    """Training: the backbone as eagle_config says, the head in float32. Inference: what the caller asks for."""
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["eagle_config"]["torch_dtype"] = "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = GR00TN15.from_pretrained(tmp_path)
    assert {p.dtype for p in model.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.action_head.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "saved")
    assert_same(model, GR00TN15.from_pretrained(tmp_path / "saved"))
    half = GR00TN15.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in half.buffers() if b.is_floating_point()} == {torch.float32}


def test_a_mixed_model_runs_without_autocast(tiny: Path, tmp_path: Path, batch: State) -> None:
    model = GR00TN15.from_pretrained(tiny)
    model.backbone.to(torch.bfloat16)
    assert model(batch)["loss"].dtype == torch.float32
    assert GR00TN15.from_pretrained(tiny, dtype=torch.bfloat16).get_action(batch)["action_pred"].isfinite().all()


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        GR00TN15.from_pretrained(folder)
    assert caught.value.hint
    return caught.value.message


def test_mixed_precision_training(tiny: Path, batch: State) -> None:
    """A bfloat16 backbone under autocast, as on a GPU, padding included: finite, and near the full precision."""
    exact = GR00TN15.from_pretrained(tiny, tune_llm=True, tune_visual=True)
    mixed = GR00TN15.from_pretrained(tiny, tune_llm=True, tune_visual=True).train()
    mixed.backbone.to(torch.bfloat16)
    noise, time = torch.randn(4, 16, 32), torch.rand(4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mixed(batch, noise, time)["loss"]
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixed.parameters())
    torch.testing.assert_close(loss, exact(batch, noise, time)["loss"], rtol=0.05, atol=0.05)


def test_missing_and_unexpected_tensors_are_named(single: Callable[[Callable[[State], object]], Path]) -> None:
    def change(state: State) -> None:
        state["action_head.extra"] = state.pop("action_head.vlln.weight")

    message = refusal(single(change))
    assert "model.safetensors" in message
    assert "1 missing (action_head.vlln.weight); 1 unexpected (action_head.extra)" in message


def test_another_shape_is_named(single: Callable[[Callable[[State], object]], Path]) -> None:
    message = refusal(single(lambda state: state.update({"action_head.vlln.weight": torch.zeros(7)})))
    assert "action_head.vlln.weight has shape (7,), config.json means (96,)" in message


def test_broken_folders_are_refused(tiny: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny, tmp_path / name))

    shard = "model-00002-of-00002.safetensors"
    cut = copy("cut")
    (cut / shard).write_bytes((cut / shard).read_bytes()[:-1000])
    assert shard in refusal(cut) and "cut short" in refusal(cut)
    gone = copy("gone")
    (gone / shard).unlink()
    assert f"{shard} does not exist" in refusal(gone)
    index = copy("index")
    (index / "model.safetensors.index.json").write_text("{")
    assert "index.json is not an index" in refusal(index)
    bare = copy("bare")
    (bare / "config.json").unlink()
    assert "config.json does not exist" in refusal(bare)
    garbled = copy("garbled")
    (garbled / "config.json").write_text("{not json")
    assert "config.json is not JSON" in refusal(garbled)
    other = copy("other")
    (other / "config.json").write_text('{"model_type": "Gr00tN1d6"}')
    assert "'Gr00tN1d6' model, not 'gr00t_n1_5'" in refusal(other)
    wrong = copy("wrong")
    config = json.loads((wrong / "config.json").read_text())
    config["action_head_cfg"]["action_horizon"] = 0
    (wrong / "config.json").write_text(json.dumps(config))
    assert "action_horizon" in refusal(wrong)
    assert "no model folder" in refusal(tmp_path / "nowhere")


def test_the_hub_out_of_reach(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not here and can't be downloaded is named, with what to do."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="nvidia/no-such-model is not a folder here") as caught:
        GR00TN15.from_pretrained("nvidia/no-such-model")
    assert "Offline, download it beforehand" in caught.value.hint
    bare = Path(shutil.copytree(tiny, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"bare has no tokenizer\.json") as caught:
        EagleProcessor.from_directory(bare)
    assert "hf download lerobot/eagle2hg-processor-groot-n1p5" in caught.value.hint
    (bare / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="can't be read"):
        EagleProcessor.from_directory(bare)


def test_a_checkpoint_is_a_base_model_by_itself(tiny: Path, tmp_path: Path) -> None:
    GR00TN15.from_pretrained(tiny).save_pretrained(tmp_path)
    EagleProcessor.from_directory(tiny).save_pretrained(tmp_path)
    assert digests(tmp_path) == digests(tiny)


def test_resized_head_keeps_what_it_learned_and_loads(tiny: Path, tmp_path: Path, batch: State) -> None:
    """The shared dimensions act as before, the encoder's first layer included (upstream leaves it random)."""
    model = GR00TN15.from_pretrained(tiny)
    small, large = GR00TN15.from_pretrained(tiny), model
    resize_action_head(large, action_horizon=24, action_dim=40)
    head, was = large.action_head, small.action_head
    assert torch.equal(head.action_encoder.W1.W[:, :32], was.action_encoder.W1.W)
    assert torch.equal(head.action_encoder.W1.b, was.action_encoder.W1.b)
    assert torch.equal(head.action_decoder.layer2.W[..., :32], was.action_decoder.layer2.W)
    assert torch.equal(head.action_decoder.layer2.b[..., :32], was.action_decoder.layer2.b)
    assert head.action_encoder.W1.W.requires_grad
    noise = torch.zeros(4, 16, 40)
    noise[..., :32] = torch.randn(4, 16, 32)
    resize_action_head(large, action_horizon=16, action_dim=40)
    ids = batch["embodiment_id"]
    time = torch.full((4,), 250)
    torch.testing.assert_close(
        head.action_encoder(noise, time, ids), was.action_encoder(noise[..., :32], time, ids), atol=1e-5, rtol=1e-5
    )
    large.save_pretrained(tmp_path)
    again = GR00TN15.from_pretrained(tmp_path)
    assert again.get_action(batch)["action_pred"].shape == (4, 16, 40)
    assert (again.config.action_dim, again.config.action_head.max_action_dim) == (40, 40)
