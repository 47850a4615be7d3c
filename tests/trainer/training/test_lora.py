"""Training with LoRA: what changes, what is saved, and that a resumed run is the one it would have been."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from tests.support.training import Training, assert_same
from trainer.errors import UsageError
from trainer.finetune import main
from trainer.gr00t.n15.model import GR00TN15

MakeTraining = Callable[..., Training]
PROJECTOR = ("state_encoder", "action_encoder", "action_decoder", "position_embedding")


def test_it_resumes_bit_for_bit(training: MakeTraining) -> None:
    flags = {"lora_rank": 4, "max_steps": 4, "save_steps": 1}
    whole, parts = training("whole", **flags), training("parts", **flags)
    assert whole.run() == 0
    base = GR00TN15.from_pretrained(whole.flags["base_model_path"]).state_dict()
    changed: set[str] = set()
    for step in whole.steps:
        weights = whole.weights(step)
        assert weights.keys() == base.keys()
        changed = {name for name, tensor in weights.items() if not torch.equal(tensor, base[name])}
        assert all(any(f".{part}." in name for part in (*PROJECTOR, "to_q", "to_k", "to_v")) for name in changed)
    assert any("to_k" in name for name in changed)
    assert any("action_encoder" in name for name in changed)
    frozen = [(whole.checkpoint(step) / "model-00001-of-00002.safetensors").read_bytes() for step in whole.steps]
    assert frozen == frozen[:1] * 4
    assert (whole.output_dir / "adapter" / "adapter_model.safetensors").is_file()

    for step in (3, 4):
        whole.checkpoint(step).rename(whole.output_dir / f"kept-{step}")
    assert whole.run(resume=True) == 0
    before, after = whole.output_dir / "kept-4", whole.checkpoint(4)
    assert_same(*[load_file(f / "adapter/adapter_model.safetensors") for f in (before, after)], where="adapter")
    assert_same(*[torch.load(f / "optimizer.pt") for f in (before, after)], where="optimizer")

    with pytest.raises(UsageError, match="was trained with LoRA"):
        whole.run(resume=True, lora_rank=0, max_steps=5)
    assert parts.run(lora_rank=0, max_steps=1) == 0
    with pytest.raises(UsageError, match="not trained with LoRA"):
        parts.run(resume=True)


def test_upstream_exact_leaves_the_projector_alone(training: MakeTraining) -> None:
    exact = training("exact", lora_rank=4, max_steps=2)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*exact.argv(), "--upstream_exact"]) == 0
    base = GR00TN15.from_pretrained(exact.flags["base_model_path"]).state_dict()
    changed = {name for name, tensor in exact.weights(2).items() if not torch.equal(tensor, base[name])}
    assert changed
    assert GR00TN15.from_pretrained(exact.checkpoint(2)).config.upstream_exact
    assert all(name.rsplit(".", 2)[1] in ("to_q", "to_k", "to_v") for name in changed)


def test_help_names_the_engines_own_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--upstream-exact" in capsys.readouterr().out
