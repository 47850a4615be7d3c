"""Behaviour of the model that upstream's numbers don't show."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.gr00t.n15.model import GR00TN15

Batch = dict[str, torch.Tensor]


def test_each_sample_uses_the_weights_of_its_embodiment(tiny: Path, batch: Batch) -> None:
    """A mixed batch gives what each of its embodiments gives alone."""
    model = GR00TN15.from_pretrained(tiny)
    noise, ids = torch.randn(4, 16, 32), torch.tensor([31, 24, 31, 17])
    mixed = model.get_action({**batch, "embodiment_id": ids}, noise)["action_pred"]
    alone = [model.get_action({**batch, "embodiment_id": each.expand(4)}, noise)["action_pred"] for each in ids]
    for row, predicted in enumerate(alone):
        torch.testing.assert_close(mixed[row], predicted[row], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed[1], alone[-1][1])


def test_frozen_backbone_gets_no_graph(tiny: Path, batch: Batch) -> None:
    model = GR00TN15.from_pretrained(tiny).train()
    features = model.backbone(batch["eagle_input_ids"], batch["eagle_attention_mask"], batch["eagle_pixel_values"])
    assert not features.requires_grad


def test_every_trained_parameter_gets_a_gradient(tiny: Path, batch: Batch) -> None:
    """DistributedDataParallel hangs on one that doesn't; the unused pooling head must not be it."""
    model = GR00TN15.from_pretrained(tiny, tune_llm=True, tune_visual=True).train()
    model(batch)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_masked_actions_do_not_count(tiny: Path, batch: Batch) -> None:
    model = GR00TN15.from_pretrained(tiny)
    noise, time = torch.randn(4, 16, 32), torch.rand(4)
    mask = batch["action_mask"].clone()
    mask[:, 8:] = False
    velocity = model(batch, noise, time)["predicted_velocity"]
    wanted = (velocity - (batch["action"].float() - noise))[:, :8].square().mean()
    torch.testing.assert_close(model({**batch, "action_mask": mask}, noise, time)["loss"], wanted)


def test_draws_come_from_torchs_global_generator(tiny: Path, batch: Batch) -> None:
    model = GR00TN15.from_pretrained(tiny)
    torch.manual_seed(5)
    one, actions = model(batch)["loss"], model.get_action(batch)["action_pred"]
    torch.manual_seed(5)
    assert torch.equal(model(batch)["loss"], one)
    assert torch.equal(model.get_action(batch)["action_pred"], actions)


def test_early_times_are_frequent(tiny: Path) -> None:
    """t = (0.999 - x) / 0.999 with x ~ Beta(1.5, 1): mean 0.4 (reference, 7.4)."""
    torch.manual_seed(0)
    times = GR00TN15.from_pretrained(tiny).action_head.sample_time(20_000, torch.device("cpu"), torch.float32)
    assert times.mean().item() == pytest.approx(0.4, abs=0.01)
    assert (times < 0.5).float().mean().item() == pytest.approx(0.65, abs=0.02)
    assert times.max() <= 1


def test_a_prompt_without_room_for_the_images_is_refused(tiny: Path, batch: Batch) -> None:
    model = GR00TN15.from_pretrained(tiny)
    with pytest.raises(ValueError, match="room for 256 image tokens; the images give 192"):
        model({**batch, "eagle_pixel_values": batch["eagle_pixel_values"][:3]})
