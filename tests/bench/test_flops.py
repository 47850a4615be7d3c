"""The arithmetic of ``bench.flops`` against torch's own count of a real step."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.drill.steps import TUNES
from bench.flops import parts, peak_tflops, step_flops
from bench.models import small_config
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15

TOKENS, BATCH = 280, 2


@pytest.fixture(scope="module")
def model() -> GR00TN15:
    return GR00TN15(small_config())


def batch(model: GR00TN15) -> dict[str, torch.Tensor]:
    head, tokens = model.config.action_head, model.config.eagle.image_tokens
    ids = torch.full((BATCH, TOKENS), 7)
    ids[:, :tokens] = model.config.eagle.image_token_index
    action = torch.randn(BATCH, head.action_horizon, head.action_dim)
    return {
        "eagle_input_ids": ids,
        "eagle_attention_mask": torch.ones_like(ids),
        "eagle_pixel_values": torch.randn(BATCH, 3, 224, 224),
        "state": torch.randn(BATCH, 1, head.max_state_dim),
        "action": action,
        "action_mask": torch.ones_like(action),
        "embodiment_id": torch.tensor([31, 31]),
    }


@pytest.mark.parametrize("tune", TUNES)
def test_a_step_does_what_the_arithmetic_says(model: GR00TN15, tune: str) -> None:
    flags = {"tune_llm": False, "tune_visual": False, **TUNES[tune]}
    model.set_trainable(**flags)
    # The plain kernel: the others compute the scores again on the way back, which is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch(model))["loss"].backward()
    model.zero_grad()
    expected = BATCH * step_flops(model.config, tokens=TOKENS, images=1, **flags)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_the_official_model_needs_what_its_size_suggests() -> None:
    """Two operations per parameter and token, and a little for attention."""
    work = parts(GR00TN15Config(), tokens=294, images=1)
    assert work["language"].weights == 2 * 294 * 12 * (2048 * 2 * (2048 + 1024) + 3 * 2048 * 6144)
    millions_of_parameters_by_tokens = {256: 412, 294: 12 * 50.3 + 201, 49: 550}
    weights = sum(2e6 * tokens * parameters for tokens, parameters in millions_of_parameters_by_tokens.items())
    assert sum(part.weights for part in work.values()) == pytest.approx(weights, rel=0.03)
    assert sum(part.attention for part in work.values()) < 0.06 * weights


def test_devices_are_known_by_a_part_of_their_name() -> None:
    assert peak_tflops("NVIDIA H200") == 989
    assert peak_tflops("NVIDIA L40S") == 362
    assert peak_tflops("CPU") is None
