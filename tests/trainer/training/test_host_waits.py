"""From one step to the next, and within a prediction, the host never waits for the GPU.

It then hands over work before the GPU has done the last, and a step can be a CUDA graph. ``tests/gpu`` asks CUDA
itself; here everything runs on tensors without contents (``tests.support.host_waits``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench.drill.steps import TUNES
from bench.drill.subjects import SUBJECTS, Made
from tests.support.host_waits import NOWHERE, HostWaitedError, no_waits
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.lora import add_lora
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.parts.chunking import Chunking
from trainer.training.sharding import clip_gradients


@pytest.fixture(scope="module", params=SUBJECTS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tiny model without contents, and what makes its batches."""
    folder = tmp_path_factory.mktemp(request.param)
    dataset = make_synthetic(folder / "dataset", episodes=1)
    return SUBJECTS[request.param].make("small", folder, dataset, NOWHERE)


def arrived(batch: dict[str, Any]) -> dict[str, Any]:
    """As ``FinetuneTrainer`` moves a batch."""
    if "crops" in batch:
        batch["crops"] = [each.to(NOWHERE, non_blocking=True) for each in batch["crops"]]
    return {
        key: each.to(NOWHERE, non_blocking=True) if isinstance(each, torch.Tensor) else each
        for key, each in batch.items()
    }


def step(made: Made, batch: dict[str, Any]) -> None:
    """A training step, without what a loop does around it."""
    trained = [each for each in made.model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=True, capturable=False)
    with no_waits():
        inputs = made.finish_images(arrived(batch))
        action = inputs["action"]
        noise, time = torch.randn_like(action), torch.rand(len(action), device=NOWHERE)
        made.model(inputs, noise, time)["loss"].backward()
        clip_gradients(trained, 1.0)
        optimizer.step()
    made.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("tune", TUNES)
def test_a_training_step(made: Made, tune: str) -> None:
    made.model.set_trainable(**TUNES[tune])
    made.model.train()
    step(made, made.collate(made.dataset.__getitems__([0, 5, 9])))


def test_a_training_step_of_prompts_and_images_that_differ(made: Made) -> None:
    """All is trained; of N1.7, which takes images as they are, some is computed again on the way back."""
    model = copy.deepcopy(made.model)
    model.set_trainable(**TUNES["everything"])
    samples = [{**made.dataset[index], "text": text} for index, text in ((0, "pick"), (5, "put it into the box"))]
    if isinstance(model, Gr00tN1d7):
        model.backbone.qwen.activation_checkpointing_enable()
        for sample in samples:
            sample["images"] = [*sample["images"], np.zeros((160, 128, 3), np.uint8)]
    batch = made.collate(samples)
    assert False in (batch.get("unpadded"), batch.get("eagle_unpadded"))
    step(made._replace(model=model.train()), batch)


def test_adapters_in_the_whole_model(made: Made) -> None:
    model = copy.deepcopy(made.model)
    model.set_trainable(False, False, False, False)
    add_lora(model, rank=4, alpha=8, dropout=0.1, full_model=True, train_projector=True)
    step(made._replace(model=model.train()), made.collate(made.dataset.__getitems__([0, 5])))


def test_a_prediction(made: Made) -> None:
    """With the end of an earlier chunk; the batch arrives as a policy gives it."""
    made.model.eval()
    batch = made.collate([made.dataset[0]])
    shape = batch.pop("action").shape
    previous = Chunking(torch.empty(shape, device=NOWHERE), horizon=8, overlap=8, frozen=2, ramp_rate=6.0)
    with no_waits(), torch.inference_mode():
        actions = made.model.get_action(batch, torch.empty(shape, device=NOWHERE), previous)["action_pred"]
    assert actions.shape == shape


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x + torch.tensor([1.0], device=x.device),
        lambda x: x * torch.tensor(2.0, device=x.device),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: x + torch.from_numpy(np.ones(3)).to(x.device),
    ],
)
def test_a_wait_is_noticed(wait: Callable[[torch.Tensor], object]) -> None:
    x = torch.empty(3, device=NOWHERE)
    with pytest.raises((HostWaitedError, NotImplementedError, RuntimeError)), no_waits():
        wait(x)
