"""``pippa presets``: what the presets are and how they differ, read from the presets and ``FinetuneConfig`` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from flows.views.run_facts import text_of
from flows.views.terminal import size
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import flag
from trainer.config.presets import Preset
from trainer.data.configs import get_data_config
from trainer.forecast import forecast, model_of
from trainer.generation import is_tiny
from trainer.memory_advice import smallest_card
from trainer.runner.wandb_setup import default_wandb

_TUNABLE = {
    "tune_llm": "language model",
    "tune_visual": "vision tower",
    "tune_projector": "projector",
    "tune_diffusion_model": "diffusion model",
}
# These have rows of their own at the top.
_ABOVE = ("dataset_path", "data_config", "base_model_path")


@dataclass(frozen=True)
class Cell:
    """A value of one preset, and why it is that."""

    value: str
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One row in which presets may differ. ``default`` is empty where there is none."""

    title: str
    default: str
    cells: tuple[Cell, ...]


def compare(presets: Sequence[Preset]) -> list[Row]:
    """What the presets train on and with what, then each argument in which one differs from another or the default."""
    rows = [
        _row("dataset", presets, lambda preset: _argument(preset, "dataset_path")),
        _row("data config", presets, lambda preset: _argument(preset, "data_config"), "data_config"),
        _row("cameras", presets, lambda preset: Cell(cameras(preset.config))),
        _row("base model", presets, lambda preset: _argument(preset, "base_model_path"), "base_model_path"),
        _row("components tuned", presets, lambda preset: Cell(components(preset.config))),
        _row("GPU memory", presets, lambda preset: Cell(gpu_memory(preset.config))),
        _row("checkpoints on disk", presets, lambda preset: Cell(checkpoints_on_disk(preset.config))),
    ]
    kinds = dict.fromkeys(preset.kind for preset in presets)
    if len(kinds) > 1:
        rows.insert(0, _row("generation", presets, lambda preset: Cell(str(preset.kind.generation))))
    for name in dict.fromkeys(name for kind in kinds for name in kind.fields()):
        if name in _ABOVE:
            continue
        cells = tuple(_argument(preset, name) for preset in presets)
        defaults = {kind: _default(name, kind) for kind in kinds if name in kind.fields()}
        if {cell.value for cell in cells} - {""} - set(defaults.values()) or len(set(defaults.values())) > 1:
            rows.append(Row(flag(name), _shown_defaults(defaults), cells))
    rows.append(_row("on and off, as flags", presets, lambda preset: Cell(switches(preset))))
    rows.append(_row("environment", presets, lambda preset: Cell(preset.environment)))
    rows.append(_row("W&B project, group", presets, lambda preset: Cell(_wandb(preset))))
    rows.append(_row("W&B tags", presets, lambda preset: Cell(", ".join(preset.wandb_tags))))
    return rows


def cameras(config: FinetuneConfig) -> str:
    """The cameras the data config expects."""
    return ", ".join(get_data_config(config.data_config).video)


def components(config: FinetuneConfig) -> str:
    """The components of the model that are trained."""
    return ", ".join(title for name, title in _TUNABLE.items() if getattr(config, name)) or "none"


def switches(preset: Preset) -> str:
    """What the preset switches on and off, in the form that upstream's script takes."""
    values = {name: value for name, value in preset.values.items() if isinstance(value, bool)}
    return " ".join(flag(name, on=value) for name, value in values.items())


def gpu_memory(config: FinetuneConfig) -> str:
    """What a training takes of each GPU, and the smallest size of a card that has it, where that can be computed."""
    if (model := model_of(config.base_model_path, config.generation)) is None:
        return "unknown"
    needs = forecast(config, model)
    if is_tiny(config.base_model_path):
        return f"none: {size(needs.host_on_cpu)} of memory, on a CPU"
    total = needs.gpu.total
    card = smallest_card(total)
    return f"{size(total)}: a card of {card} GB" if card else f"{size(total)}: more than any one card has"


def checkpoints_on_disk(config: FinetuneConfig) -> str:
    """The most that checkpoints take at once on the disk of the training, where that can be computed."""
    model = model_of(config.base_model_path, config.generation)
    return "unknown" if model is None else size(forecast(config, model).disk.checkpoints)


def comparison_table(presets: Sequence[Preset]) -> Table:
    """``compare`` for a terminal, each reason below its value."""
    table = Table(show_lines=True)
    for heading in ("", "default", *(preset.name for preset in presets)):
        table.add_column(heading, overflow="fold")
    for row in compare(presets):
        cells = [escape(cell.value) + (f"\n[dim]{escape(cell.reason)}[/]" if cell.reason else "") for cell in row.cells]
        differs = len({cell.value for cell in row.cells}) > 1
        table.add_row(f"[bold]{row.title}[/]" if differs else row.title, escape(row.default), *cells)
    return table


def comparison_markdown(presets: Sequence[Preset]) -> str:
    """``compare`` as a table for a page."""
    head = ["", "default", *(preset.name for preset in presets)]
    lines = [head, ["---"] * len(head)]
    for row in compare(presets):
        cells = [f"{cell.value}<br>*{cell.reason}*" if cell.reason else cell.value for cell in row.cells]
        lines.append([row.title, row.default, *cells])
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def as_document(preset: Preset) -> dict[str, object]:
    """A preset for programs: every value, and the reason of those it sets."""
    reasons = {name: preset.reason(name) for name in preset.arguments}
    return {
        "name": preset.name,
        "summary": preset.summary,
        "environment": preset.environment,
        "wandb_tags": list(preset.wandb_tags),
        "config": preset.config.model_dump(mode="json"),
        "reasons": reasons,
    }


def overview_table(presets: Sequence[Preset]) -> Table:
    """Two lines per preset: what it is for, and what it trains on."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    for preset in presets:
        config = preset.config
        table.add_row(
            f"[bold]{preset.name}[/]",
            f"{preset.summary}\n[dim]{escape(text_of(config.dataset_path))}, {config.max_steps} steps of "
            f"{config.global_batch}, {escape(config.base_model_path)}, {preset.environment} environment[/]",
        )
    return table


def _row(title: str, presets: Sequence[Preset], cell: Callable[[Preset], Cell], argument: str = "") -> Row:
    kinds = dict.fromkeys(preset.kind for preset in presets) if argument else {}
    default = _shown_defaults({kind: _default(argument, kind) for kind in kinds})
    return Row(title, default, tuple(cell(preset) for preset in presets))


def _wandb(preset: Preset) -> str:
    wandb = default_wandb(preset, f"{preset.name}-", {}, preset.config)
    return f"{wandb.project}, {wandb.group}"


def _default(argument: str, kind: type[FinetuneConfig]) -> str:
    field = kind.model_fields[argument]
    return "" if field.is_required() else text_of(field.default)


def _shown_defaults(defaults: Mapping[type[FinetuneConfig], str]) -> str:
    """The default of an argument; where the generations have different ones, each with its generation."""
    if len(set(defaults.values())) < 2:
        return next(iter(defaults.values()), "")
    return ", ".join(f"{value} ({kind.generation.name})" for kind, value in defaults.items() if value)


def _argument(preset: Preset, name: str) -> Cell:
    """Empty for an argument that the preset's generation does not have."""
    if name not in preset.kind.fields():
        return Cell("")
    return Cell(text_of(getattr(preset.config, name)), preset.reason(name))
