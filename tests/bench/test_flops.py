"""The arithmetic of ``bench.flops`` against torch's own count of a real step."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import flops_n17
from bench.drill.steps import TUNES
from bench.flops import parts, peak_tflops, step_flops
from bench.models import small_config
from bench.models_n17 import small_config as small_n17
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.sections import OFFICIAL_3B

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


@pytest.mark.parametrize("tune", TUNES)
def test_a_step_of_n17_does_what_the_arithmetic_says(tune: str) -> None:
    model = Gr00tN1d7(small_n17({"image_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 8}))
    config, tokens, patches = model.config.checked, 120, 256
    model.set_trainable(**TUNES[tune])
    ids = torch.full((BATCH, tokens), 7)
    ids[:, 2 : 2 + patches // 4] = 5
    action = torch.randn(BATCH, config.action_horizon, config.max_action_dim)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(BATCH * patches, 1536),
        "image_grid_thw": torch.tensor([[1, 16, 16]] * BATCH),
        "state": torch.randn(BATCH, 1, config.max_state_dim),
        "action": action,
        "action_mask": torch.ones_like(action),
        "embodiment_id": torch.tensor([10, 10]),
    }
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(inputs)["loss"].backward()
    expected = BATCH * flops_n17.step_flops(config, tokens=tokens, images=1, patches=patches, **TUNES[tune])
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_n17_needs_what_its_size_suggests() -> None:
    """Two operations per parameter and token."""
    work = flops_n17.parts(OFFICIAL_3B, tokens=144, images=2, patches=256)
    millions_of_parameters_by_tokens = {512: 24 * 12.6, 144: 16 * 50.3 + 201, 41: 1092}
    weights = sum(2e6 * tokens * parameters for tokens, parameters in millions_of_parameters_by_tokens.items())
    assert sum(part.weights for part in work.values()) == pytest.approx(weights, rel=0.1)


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
