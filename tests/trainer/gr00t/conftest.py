"""Models and batches the tests of the architecture share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from tests.support.golden import load_config, load_state, make_model
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.processor import EagleProcessor
from trainer.gr00t.n15.sections import OFFICIAL_EAGLE
from trainer.gr00t.n15.tiny import make_tiny_base_model

# The entries of Qwen's vocabulary that the golden prompts use (reference, 7.2).
PIECES = {
    "system": 8948, "\n": 198, "You": 2610, " are": 525, " a": 264, " helpful": 10950, " assistant": 17847, ".": 13,
    "user": 872, "assistant": 77091, "<": 27, "image": 1805, " ": 220, "1": 16, "2": 17, ">": 29, "pick": 29245,
    " the": 279, " pear": 37690, " from": 504, " counter": 5546, " and": 323, " place": 1992, " it": 432, " in": 304,
    " plate": 11968, " sweet": 10226, " potato": 38734, " meat": 13041, " cup": 10525, "cake": 47384,
}  # fmt: skip
SPECIAL = {
    "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645,
    "<IMG_CONTEXT>": 151669, "<img>": 151670, "</img>": 151671,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Sums in one order, and no fight over the two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def golden_config(golden: Path) -> GR00TN15Config:
    """Configuration of the small model upstream's code was run with."""
    return load_config(golden)


@pytest.fixture(scope="session")
def golden_state(golden: Path) -> dict[str, torch.Tensor]:
    """That model's weights, under upstream's names."""
    return load_state(golden)


@pytest.fixture
def golden_model(golden_config: GR00TN15Config, golden_state: dict[str, torch.Tensor]) -> Callable[..., GR00TN15]:
    """Makes that model, in eval mode; the arguments are the four tune flags (defaults: the head only), and what
    padding does: ``sdpa`` or ``fa2ref``, the two of upstream's, or None, ours.
    """

    def make(
        llm: bool = False, visual: bool = False, projector: bool = True, dit: bool = True, padding: str | None = None
    ) -> GR00TN15:
        model = make_model(golden_config, golden_state, padding)
        model.set_trainable(llm, visual, projector, dit)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def processor() -> EagleProcessor:
    """The official processor, with as much of Qwen's vocabulary as the golden prompts need."""
    model = Tokenizer(WordLevel({**PIECES, **SPECIAL}, unk_token="<|endoftext|>"))
    longest_first = sorted(PIECES, key=len, reverse=True)
    model.pre_tokenizer = Split(Regex("|".join(piece.replace(".", "\\.") for piece in longest_first)), "isolated")
    model.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return EagleProcessor(model, OFFICIAL_EAGLE)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base model. Not to be written to."""
    return make_tiny_base_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def batch(tiny: Path) -> dict[str, torch.Tensor]:
    """Four samples as the collator gives them, with random pictures and smooth actions."""
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (4, 1, 224, 224, 3), dtype=np.uint8))
    inputs = EagleProcessor.from_directory(tiny).encode(["pick the cube", "pick", "place", "put it"], images)
    steps = torch.linspace(-1, 1, 16)[None, :, None]
    return {
        **inputs,
        "state": torch.from_numpy(rng.normal(size=(4, 1, 64))),
        "state_mask": torch.ones(4, 1, 64, dtype=torch.bool),
        "action": (steps * torch.from_numpy(rng.uniform(-1, 1, (4, 1, 32)))).to(torch.float64),
        "action_mask": torch.ones(4, 16, 32, dtype=torch.bool),
        "embodiment_id": torch.full((4,), 31),
    }
