from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from flows.views.presets_table import compare, comparison_markdown, comparison_table, overview_table
from trainer.config.flags import flag
from trainer.config.generations import ALL_FIELDS
from trainer.config.presets import PRESETS, Preset, Value
from trainer.data.configs import get_data_config


def shown(table: object) -> str:
    file = io.StringIO()
    Console(width=200, file=file).print(table)
    return file.getvalue()


@pytest.mark.parametrize("pair", list(itertools.combinations(PRESETS, 2)), ids="-".join)
def test_every_difference_has_a_row_with_both_values(pair):
    presets = [PRESETS[name] for name in pair]
    rows = {row.title: row for row in compare(presets)}
    named = {"dataset_path": "dataset", "data_config": "data config", "base_model_path": "base model"}
    for name, field in ALL_FIELDS.items():
        # One that a generation has not differs from what another's preset says, not from its default.
        values = [getattr(p.config, name) if name in p.kind.fields() else field.default for p in presets]
        if values[0] != values[1]:
            row = rows[named.get(name, flag(name))]
            assert len({cell.value for cell in row.cells}) == 2
            assert [cell.reason for cell in row.cells] == [preset.reason(name) for preset in presets]


def test_what_changed_between_the_generations_is_told():
    rows = {row.title: row for row in compare([PRESETS["blog"], PRESETS["blog-n17"]])}
    told = {title: [cell.value for cell in row.cells] for title, row in rows.items()}
    assert told["generation"] == ["GR00T N1.5", "GR00T N1.7"]
    assert told["--global-batch-size"] == ["", "32"]
    assert told["base model"] == ["nvidia/GR00T-N1.5-3B", "nvidia/GR00T-N1.7-3B"]
    assert rows["--dataloader-num-workers"].default == "8 (N1.5), 2 (N1.7)"
    assert "generation" not in {row.title for row in compare([PRESETS["blog"], PRESETS["smoke"]])}


def test_what_is_the_default_everywhere_has_no_row():
    rows = {row.title for row in compare(list(PRESETS.values()))}
    assert "--lora-dropout" not in rows and "--resume" not in rows
    assert "--video-backend" in rows  # the presets agree, but differ from the default


def test_cameras_are_those_of_the_data_config():
    rows = {row.title: row for row in compare([PRESETS["blog"], PRESETS["smoke"]])}
    assert [cell.value for cell in rows["cameras"].cells] == [
        ", ".join(get_data_config(name).video) for name in ("so100_dualcam", "fourier_gr1_arms_only")
    ]
    assert rows["components tuned"].cells[0].value == "projector, diffusion model"
    assert "vision tower" in compare([PRESETS["overfit-long"]])[4].cells[0].value


def test_the_page_is_one_table_whatever_the_values_hold():
    odd = Preset("odd", "a | b", "uv", {"dataset_path": Value(["a|b"], "one | other")}, ("x|y",))
    lines = comparison_markdown([PRESETS["smoke"], odd]).splitlines()
    for line in lines:
        assert line.replace("\\|", "").count("|") == 5
    assert lines[1] == "| --- | --- | --- | --- |"


def test_brackets_in_values_are_shown_as_they_are():
    odd = Preset("odd", "a summary", "uv", {"dataset_path": Value(["./[red]x[/red]"], "[bold]")})
    assert "[red]x[/red]" in shown(comparison_table([odd])) and "[bold]" in shown(comparison_table([odd]))
    assert "[red]x[/red]" in shown(overview_table([odd]))


def test_the_overview_has_every_preset():
    text = shown(overview_table(list(PRESETS.values())))
    for preset in PRESETS.values():
        assert preset.name in text and preset.summary in text and str(preset.config.max_steps) in text
