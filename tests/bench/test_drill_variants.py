"""Other ways to run a training step: the same step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bench.drill import variants
from bench.drill.steps import bench
from bench.drill.subjects import SUBJECTS
from bench.drill.variants import FixedStep


@pytest.fixture(scope="module", params=SUBJECTS)
def step(request: pytest.FixtureRequest) -> Iterator[FixedStep]:
    with bench("small", request.param) as made:
        yield FixedStep(made, 2)


def loss(step: FixedStep) -> torch.Tensor:
    with torch.no_grad():
        return step.model(step.inputs, step.noise, step.time)["loss"]


def recorded(function: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """As ``captured`` does on a GPU: calls that fill what the first one returned."""
    returned = function().clone()

    def replay() -> None:
        returned.copy_(function())

    return replay, returned


def test_a_replayed_backbone_gives_the_same_loss(step: FixedStep, monkeypatch: pytest.MonkeyPatch) -> None:
    want = loss(step)

    def replayed(function: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        # What a graph runs is the backbone, not what has taken its place meanwhile.
        replay, returned = recorded(function)
        forward = type(step.model.backbone).forward

        def again() -> None:
            mine = step.model.backbone.__dict__.pop("forward")
            assert mine is not forward
            replay()
            step.model.backbone.forward = mine  # pyrefly: ignore[bad-assignment]

        returned.zero_()  # the first call's features are of no use to the step
        return again, returned

    monkeypatch.setattr(variants, "captured", replayed)
    with variants.backbone_graph(step):
        assert torch.equal(loss(step), want)
    assert "forward" not in step.model.backbone.__dict__
    assert torch.equal(loss(step), want)


def test_compiled_layers_give_the_same_loss(step: FixedStep) -> None:
    want = loss(step)
    with variants.compiled(step):
        torch.testing.assert_close(loss(step), want)
    layers: list[Any] = [each for each in step.model.modules() if type(each).__name__ in step.subject.layers]
    assert len(layers) == 9 and all(each._compiled_call_impl is None for each in layers)


def test_graphs_need_a_gpu(step: FixedStep) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match="need a GPU"), variants.step_graph(step):
        pass
