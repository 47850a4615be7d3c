"""What a run is warned of before its engine starts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from trainer.config.argv import parse_flags
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import PRESETS
from trainer.forecast import forecast
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.sections import Sections, tiny_sections
from trainer.memory_advice import fits
from trainer.runner import forecast_warnings
from trainer.runner.cards import Card
from trainer.runner.forecast_warnings import disk_warning, host_memory, memory_warning

OFFICIAL, TINY = Sections.of({}), Sections.of(tiny_sections())
BLOG = PRESETS["blog"].config


def card(mib: int, name: str = "NVIDIA L4") -> Card:
    return Card("0", "GPU-1", name, mib << 20, "580.65")


def test_a_card_that_is_too_small_is_named_with_flags_that_fit_it() -> None:
    warning = memory_warning(BLOG, OFFICIAL, [card(81_559, "NVIDIA H100"), card(23_034)])
    assert warning is not None
    assert "28.7 GB of GPU memory; NVIDIA L4 has 24.2 GB, of which 92%" in warning.message
    for flags in re.findall(r"`(--[^`]+)`", warning.hint):
        assert fits(forecast(parse_flags(flags.split(), BLOG)[0], OFFICIAL).gpu.total, 23_034 << 20)
    assert warning.hint.count("`--") == 3


@pytest.mark.parametrize("cards", [[card(46_068)], [card(0)], [card(46_068), card(81_559)]])
def test_one_that_is_large_enough_or_does_not_tell_is_not(cards: list[Card]) -> None:
    assert memory_warning(BLOG, OFFICIAL, cards) is None


def test_one_on_which_nothing_fits_takes_a_larger_one() -> None:
    warning = memory_warning(BLOG, OFFICIAL, [card(8192)])
    assert warning is not None and "larger GPU" in warning.hint and "--batch-size" not in warning.hint


def test_without_a_gpu_it_is_the_machines_memory_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_warnings, "host_memory", lambda: 16_000_000_000)
    warning = memory_warning(BLOG, OFFICIAL, [])
    assert warning is not None and "16.0 GB" in warning.message and "tiny" in warning.hint
    assert memory_warning(PRESETS["smoke"].config, TINY, []) is None
    monkeypatch.setattr(forecast_warnings, "host_memory", lambda: None)
    assert memory_warning(BLOG, OFFICIAL, []) is None


def test_a_containers_limit_is_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(forecast_warnings, "_CGROUP_LIMIT", limit)
    machine = host_memory()
    assert machine is not None and machine > 2**28
    limit.write_text("max\n")
    assert host_memory() == machine
    limit.write_text("268435456\n")
    assert host_memory() == 2**28


@pytest.mark.parametrize(("saves", "warned"), [(1, False), (4, True), (100, True)])
def test_a_disk_that_is_too_small_for_the_checkpoints(
    saves: int, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GR00TN15Config().to_json_file(tmp_path / "config.json", use_diff=False)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=40_000_000_000))
    warning = disk_warning(_spec(max_steps=1000 * saves), tmp_path, tmp_path)
    assert (warning is not None) == warned
    if warning is not None:
        assert "40.0 GB free" in warning.message and "--save-steps" in warning.hint
    assert disk_warning(_spec(max_steps=100_000), tmp_path / "unknown", tmp_path) is None


class _Spec:
    """As much of a run's spec as is asked for."""

    engine = "native"

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config


def _spec(**flags: Any) -> Any:
    return _Spec(FinetuneConfig(dataset_path=["any"], **flags))
