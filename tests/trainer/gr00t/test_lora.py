"""LoRA: what is adapted at full size, and that merging, peft's own loading and ours agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from trainer.errors import UsageError
from trainer.gr00t.lora import ADAPTER, add_lora, load_adapter, merged_state, save_adapter
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.weights import save_checkpoint

FLAGS: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0}
PROJECTOR = 52_510_720 + 228_212_736 + 34_636_800 + 1_572_864


@pytest.mark.parametrize(
    ("rank", "full_model", "modules", "adapters"),
    [(32, False, 60, 6_553_600), (64, False, 60, 13_107_200), (8, True, 177, None)],
)
def test_the_official_models_adapters(rank: int, full_model: bool, modules: int, adapters: int | None) -> None:
    with torch.device("meta"):
        model = GR00TN15(GR00TN15Config())
        add_lora(model, rank=rank, alpha=16, dropout=0.1, full_model=full_model, train_projector=False)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert len({name.split(".lora_")[0] for name in trained}) == modules
    assert adapters is None or sum(trained.values()) == adapters


def test_the_official_models_projector_is_trained_too() -> None:
    with torch.device("meta"):
        model = GR00TN15(GR00TN15Config())
        add_lora(model, rank=32, alpha=16, dropout=0.1)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 6_553_600 + PROJECTOR


def test_adapters_are_float32_whatever_they_adapt(tiny: Path) -> None:
    """In bfloat16 AdamW's steps at a small learning rate round to nothing; upstream's are float32 as well."""
    model = GR00TN15.from_pretrained(tiny, dtype=torch.bfloat16)
    add_lora(model, **FLAGS, full_model=True, train_projector=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained and {parameter.dtype for parameter in trained} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32, torch.bfloat16}


def adapted(tiny: Path, seed: int = 1, **options: Any) -> GR00TN15:
    """The tiny model with adapters that do something."""
    model = GR00TN15.from_pretrained(tiny)
    add_lora(model, **(FLAGS | options))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def save(model: GR00TN15, folder: Path) -> Path:
    state, changing = merged_state(model)
    save_checkpoint(model, folder, state_dict=state, trained=changing)
    save_adapter(model, folder / ADAPTER)
    return folder


def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return model(batch)["loss"]


@pytest.mark.parametrize("options", [{}, {"full_model": True}, {"train_projector": False}])
def test_merged_and_adapted_are_one_model(
    tiny: Path, batch: dict[str, torch.Tensor], tmp_path: Path, options: dict[str, Any]
) -> None:
    model = adapted(tiny, **options)
    want = loss(model, batch)
    assert (want - loss(GR00TN15.from_pretrained(tiny), batch)).abs() > 1e-3
    folder = save(model, tmp_path / "checkpoint")
    merged = GR00TN15.from_pretrained(folder).eval()
    torch.testing.assert_close(loss(merged, batch), want, atol=1e-5, rtol=1e-5)

    again = GR00TN15.from_pretrained(tiny)
    add_lora(again, **(FLAGS | options))
    load_adapter(again, folder)
    assert torch.equal(loss(again.eval(), batch), want)

    theirs = PeftModel.from_pretrained(GR00TN15.from_pretrained(tiny), str(folder / ADAPTER)).eval()
    torch.testing.assert_close(loss(theirs, batch), want, atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = save(adapted(tiny), tmp_path / "checkpoint")

    def resumed(base: Path, **options: Any) -> None:
        model = GR00TN15.from_pretrained(base)
        add_lora(model, **(FLAGS | options))
        load_adapter(model, folder)

    resumed(tiny)
    others: list[dict[str, Any]] = [{"rank": 8}, {"alpha": 16}, {"full_model": True}, {"train_projector": False}]
    for options in others:
        with pytest.raises(UsageError, match="other LoRA flags"):
            resumed(tiny, **options)
    # The merged model is a base model as well, but not this run's.
    with pytest.raises(UsageError, match="--base-model-path is not the model"):
        resumed(folder)
    (folder / ADAPTER / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UsageError, match="damaged"):
        resumed(tiny)
    (folder / ADAPTER / "adapter_config.json").unlink()
    with pytest.raises(UsageError, match="not trained with LoRA"):
        resumed(tiny)
