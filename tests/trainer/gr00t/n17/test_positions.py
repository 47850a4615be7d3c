"""Where tokens and patches are, computed on the CPU: as transformers' model finds it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from trainer.gr00t.n17.backbone import ImageAttention, QwenBackbone
from trainer.gr00t.n17.positions import Grid, find_positions
from trainer.gr00t.n17.sections import ModelConfig, tiny_values

IMAGE, TEXT = 5, 7
TINY = ModelConfig.model_validate(tiny_values(IMAGE, 6, 8))
QWEN = TINY.qwen3_vl_config
SIDES = st.sampled_from([2, 4, 6])
PROMPTS = st.lists(
    st.tuples(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3), st.integers(1, 5)), min_size=1, max_size=4
)


def batch(prompts: list[tuple[list[Grid], int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor, list[Grid]]:
    """Token ids and mask of prompts with images and so many words, padded on one side, and the grids of all images."""
    rows = [[t for h, w in grids for t in (6, *[IMAGE] * (h * w // 4), 8)] + [TEXT] * words for grids, words in prompts]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        here = slice(ids.shape[1] - len(tokens), None) if left else slice(len(tokens))
        ids[row, here], mask[row, here] = torch.tensor(tokens), 1
    return ids, mask, [grid for grids, _ in prompts for grid in grids]


@pytest.fixture(scope="module")
def backbone() -> QwenBackbone:
    torch.manual_seed(0)
    return QwenBackbone(TINY).eval()


@settings(max_examples=30, deadline=None)
@given(PROMPTS, st.booleans())
def test_tokens_are_where_transformers_finds_them(prompts: list[tuple[list[Grid], int]], left: bool) -> None:
    ids, mask, grids = batch(prompts, left=left)
    with torch.device("meta"):
        model = Qwen3VLModel(QWEN.qwen3_vl(1))
    sizes = torch.tensor([[1, *grid] for grid in grids])
    want, _ = model.get_rope_index(ids, (ids == IMAGE).int(), sizes, None, mask)  # pyrefly: ignore[bad-argument-type]
    positions = find_positions(ids, mask, grids, QWEN)
    assert torch.equal(positions.position_ids, want)
    assert (ids.flatten()[positions.image_indices] == IMAGE).all() and len(positions.image_indices) == (
        ids == IMAGE
    ).sum()


@pytest.mark.parametrize(
    ("grids", "series"),
    [
        ([(4, 4)] * 6, [16]),
        ([(4, 4), (4, 6), (4, 4), (4, 6)], [16, 24]),
        ([(4, 4), (2, 8), (4, 4), (2, 8)], [16, 16]),
        ([(4, 4), (4, 4), (6, 2)], [16, 16, 12]),
    ],
)
@torch.no_grad()
def test_images_attend_to_themselves(backbone: QwenBackbone, grids: list[Grid], series: list[int]) -> None:
    """All at once, in a series that repeats, or one after another: as each of them alone."""
    vision = backbone.qwen.visual
    assert all(isinstance(block.attn, ImageAttention) for block in vision.blocks)
    ids, mask, _ = batch([(grids, 1)], left=True)
    sizes = torch.tensor([[1, *grid] for grid in grids])
    pixels = torch.randn(sum(h * w for h, w in grids), 3 * 2 * 16 * 16)
    positions = find_positions(ids, mask, grids, QWEN)
    assert positions.image_patches == series
    together, levels = backbone.encode_images(pixels, sizes, positions)
    alone, alone_levels = [], []
    for size, patches in zip(sizes, pixels.split([h * w for h, w in grids]), strict=True):
        one = [tuple(size[1:].tolist())]
        ids, mask, _ = batch([(one, 1)], left=True)
        features, level = backbone.encode_images(patches, size[None], find_positions(ids, mask, one, QWEN))
        alone.append(features)
        alone_levels.append(level[0])
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    torch.testing.assert_close(levels[0], torch.cat(alone_levels), atol=1e-5, rtol=0)


def test_prompts_without_room_for_their_images_are_refused(backbone: QwenBackbone) -> None:
    ids, mask, grids = batch([([(4, 4)], 2)], left=True)
    with pytest.raises(ValueError, match="room for 4 image tokens; the images give 8"):
        backbone(ids, mask, torch.zeros(32, 1536), torch.tensor([[1, *grid] for grid in grids * 2]))
