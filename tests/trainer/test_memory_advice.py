"""Which card a training fits, and what to change where it fits none."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trainer.config.argv import parse_flags
from trainer.config.finetune_config import FinetuneConfig
from trainer.forecast import forecast
from trainer.gr00t.n15.sections import Sections
from trainer.memory_advice import CARDS, FITS, GENERAL_ADVICE, advice, fits, smallest_card, ways

OFFICIAL = Sections.of({})


def config(**flags: Any) -> FinetuneConfig:
    """The defaults, but for ``flags``."""
    return FinetuneConfig.model_validate({"dataset_path": ["any"], "data_config": "so100_dualcam", **flags})


def test_a_card_keeps_a_share_for_others() -> None:
    for size, mib in CARDS.items():
        assert smallest_card(int(FITS * (mib << 20))) == size
        assert smallest_card(int(FITS * (mib << 20)) + 1) != size
    assert smallest_card(10**12) is None


@pytest.mark.parametrize("card", [24, 32, 48])
@pytest.mark.parametrize(
    "given",
    [
        config(batch_size=64),
        config(batch_size=48, tune_llm=True, tune_visual=True),
        config(batch_size=64, lora_rank=8, lora_full_model=True),
        config(batch_size=30, gradient_accumulation_steps=2, num_gpus=2),
    ],
)
def test_each_way_is_one_that_fits_as_it_is_written(given: FinetuneConfig, card: int) -> None:
    memory = CARDS[card] << 20
    found = ways(given, OFFICIAL, memory)
    assert found
    for way in found:
        changed, names = parse_flags(way.flags.split(), given)
        assert changed != given and way.total == forecast(changed, OFFICIAL).gpu.total
        assert fits(way.total, memory)
        if "gradient_accumulation_steps" in names:
            assert changed.batch_size * changed.gradient_accumulation_steps == (
                given.batch_size * given.gradient_accumulation_steps
            )


def test_fsdp_is_recommended_where_there_are_several_gpus() -> None:
    given = config(num_gpus=4, tune_llm=True, tune_visual=True, batch_size=2)
    memory = CARDS[24] << 20
    assert not fits(forecast(given, OFFICIAL).gpu.total, memory)
    first, *_ = ways(given, OFFICIAL, memory)
    assert first.flags == "--fsdp" and fits(first.total, memory)
    alone = given.model_copy(update={"num_gpus": 1})
    assert not any("--fsdp" in way.flags for way in ways(alone, OFFICIAL, memory))


def test_on_several_machines_each_with_a_copy_comes_before_one_copy_for_all() -> None:
    given = config(num_gpus=4, num_nodes=2, tune_llm=True, tune_visual=True, batch_size=2)
    found = {way.flags: way.total for way in ways(given, OFFICIAL, CARDS[24] << 20)}
    assert list(found)[:2] == ["--fsdp --fsdp-devices 4", "--fsdp"]
    alone = forecast(given.model_copy(update={"num_nodes": 1, "fsdp": True}), OFFICIAL)
    assert found["--fsdp --fsdp-devices 4"] == alone.gpu.total > found["--fsdp"]
    hybrid = given.model_copy(update={"fsdp": True, "fsdp_devices": 4})
    first, *_ = ways(hybrid, OFFICIAL, round(found["--fsdp"] / FITS) + 1)
    assert first == ("--fsdp-devices 8", found["--fsdp"])


def test_where_nothing_fits_the_least_is_named() -> None:
    [way] = ways(config(), OFFICIAL, 4 << 30)
    assert way.flags == "--batch-size 1 --lora-rank 32" and not fits(way.total, 4 << 30)
    assert ways(config(batch_size=1, lora_rank=32), OFFICIAL, 4 << 30) == []


def test_advice_after_running_out_of_memory_names_less() -> None:
    said = advice(config(), OFFICIAL)
    forecasts = [float(found) for found in re.findall(r"([\d.]+) GB", said)]
    assert len(forecasts) == 4 and all(less < forecasts[0] for less in forecasts[1:])
    for flags in ("--batch-size", "--no-tune-diffusion-model", "--lora-rank 32"):
        assert flags in said and flags in GENERAL_ADVICE
    assert advice(config(), None) == GENERAL_ADVICE
    assert "larger GPU" in advice(config(batch_size=1, lora_rank=32), OFFICIAL)
