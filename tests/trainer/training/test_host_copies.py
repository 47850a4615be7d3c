"""What a checkpoint holds is what was trained at its step, though the training continues while it is copied."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.training import Training, assert_same
from tests.support.waiting import PATIENCE
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.training import host_copies
from trainer.training.host_copies import HostCopies

TREES = st.recursive(
    st.one_of(
        st.builds(
            lambda shape, dtype: torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype),
            st.lists(st.integers(0, 7), max_size=3),
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64]),
        ),
        st.integers(),
        st.none(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=3), inner, max_size=5)),
)


def tensors(tree: Any) -> list[torch.Tensor]:
    """Those of ``tree``, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return [each for value in values for each in tensors(value)]


def plain(tree: Any) -> Any:
    """``tree`` with tensors as their dtype and their values."""
    if isinstance(tree, torch.Tensor):
        return str(tree.dtype), tree.tolist()
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list) else tree


@given(TREES, st.sampled_from([1, 64, 200, host_copies.BLOCK_BYTES]))
def test_copies_hold_what_was_there_before_the_change(tree: Any, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_copies, "BLOCK_BYTES", block)
        copies = HostCopies()
        for _ in range(2):
            before = plain(tree)
            taken = copies.take("tree", tree)
            copies.begin()
            copies.before_change()
            for tensor in tensors(tree):
                tensor.add_(1)
            copies.finish()
            assert plain(taken) == before


def test_memory_is_shared_by_one_trees_copies_and_used_again() -> None:
    copies = HostCopies()
    tree = {"weights": [torch.ones(5), torch.ones(3)], "steps": torch.ones(2, dtype=torch.int64)}
    first = [each.untyped_storage().data_ptr() for each in tensors(copies.take("tree", tree))]
    assert len(set(first)) == 2  # one of each dtype
    assert [each.untyped_storage().data_ptr() for each in tensors(copies.take("tree", tree))] == first
    assert tensors(copies.take("another", tree))[0].untyped_storage().data_ptr() not in first


def test_the_official_models_copies_waste_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned memory is had in powers of two. The largest tensors of the action head have 604 and 302 MB."""
    made: list[int] = []

    def note(length: int, dtype: torch.dtype, *, pinned: bool) -> torch.Tensor:
        made.append(length * dtype.itemsize)
        return torch.empty(length, dtype=dtype, device="meta")

    monkeypatch.setattr(host_copies, "_zeros", note)
    with torch.device("meta"):
        model = GR00TN15(GR00TN15Config())
    model.set_trainable(tune_llm=False, tune_visual=False, tune_projector=True, tune_diffusion_model=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    taken = HostCopies().take("weights", trained)
    assert [each.shape for each in taken] == [each.shape for each in trained]
    raw = sum(each.numel() * each.element_size() for each in trained)
    assert raw > 4e9
    assert sum(made) < 1.01 * raw
    assert sum(1 << (size - 1).bit_length() for size in made) < 1.01 * raw


def test_what_no_tensor_uses_of_a_block_is_zero() -> None:
    """It lies in optimizer.pt, which shall be the same for the same state."""
    [taken] = HostCopies().take("tree", [torch.ones(3)])
    storage = torch.tensor([], dtype=taken.dtype).set_(taken.untyped_storage())
    assert storage.tolist() == [0] * 16


def test_memory_that_can_not_be_pinned_does_instead(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: Any, **given: Any) -> torch.Tensor:
        if given.get("pin_memory"):
            raise RuntimeError("CUDA error: out of memory")
        return torch.empty(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", refuse)
        host_copies._zeros(4, torch.float32, pinned=True)
    assert "takes longer" in caplog.text


def test_the_optimizer_waits_for_the_copies(training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy takes until the next step's backward pass is over and it has come to the optimizer."""
    flags = {"max_steps": 5, "save_steps": 2}
    reference = training("reference", **flags)
    assert reference.run() == 0
    arrived, held = threading.Event(), []
    copy, before_change = torch._foreach_copy_, HostCopies.before_change

    def hold(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        held.append(arrived.wait(0 if len(held) == 2 else PATIENCE))  # the last is of the last step
        copy(targets, sources)

    def arrive(self: HostCopies) -> None:
        arrived.set()
        before_change(self)
        arrived.clear()

    monkeypatch.setattr(torch, "_foreach_copy_", hold)
    monkeypatch.setattr(HostCopies, "before_change", arrive)
    slow = training("slow", **flags)
    assert slow.run() == 0
    assert held == [True, True, False]
    for step in (2, 4, 5):
        assert_same(slow.weights(step), reference.weights(step))
        assert_same(slow.state(step)["optimizer.pt"], reference.state(step)["optimizer.pt"])
