"""``pippa train PRESET --dry-run``: what a training would be, without touching anything."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.views.forecast import Plan, print_forecast
from flows.views.presets_table import cameras, components
from trainer.config.argv import Provenance, pinned, to_argv
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import flag
from trainer.config.presets import Preset
from trainer.config.run_spec import Engine
from trainer.config.settings import pippa_home, secret_from
from trainer.generation import is_tiny
from trainer.importers import describe, is_folder
from trainer.runner.wandb_setup import default_wandb
from trainer.store.stores import store_folder


def print_plan(
    console: Console,
    preset: Preset,
    config: FinetuneConfig,
    provenance: Provenance,
    launcher: str,
    engine: Engine,
    needs: Plan | None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Print what it will need, the resolved configuration with the origin of each value, and the engine's command."""
    wandb = default_wandb(preset, f"{preset.name}-", environ, config)
    entity = wandb.entity or "your default entity"
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for title, value in {
        "preset": f"{preset.name}: {preset.summary}",
        "dataset": "\n".join(f"{name} ({describe('dataset', name)})" for name in config.dataset_path),
        "cameras": cameras(config),
        "base model": f"{config.base_model_path} ({describe('model', config.base_model_path)})",
        "components tuned": components(config),
        "global batch": config.global_batch_formula,
        "launcher": launcher,
        "engine": engine,
        "object store": environ.get("PIPPA_S3_ENDPOINT") or f"the folder {store_folder(pippa_home(environ))}",
        "Prefect": environ.get("PREFECT_API_URL") or f"embedded, in {pippa_home(environ) / 'prefect'}",
        "W&B": f"{entity}/{wandb.project}, tags {', '.join(wandb.tags)}; {_wandb_mode(config, environ)}",
    }.items():
        table.add_row(title, escape(value))
    console.print(table)
    if needs is not None:
        console.print()
        print_forecast(console, needs)

    values = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("argument", "value", "from", "why"):
        values.add_column(heading, overflow="fold", no_wrap=heading in ("argument", "from"))
    for name in type(config).fields():
        origin = provenance[name]
        style = {"flag": "bold cyan", "preset": "", "default": "dim"}[origin]
        reason = preset.reason(name) if origin == "preset" else ""
        values.add_row(name, escape(_shown(getattr(config, name))), origin, f"[dim]{escape(reason)}[/]", style=style)
    console.print()
    console.print(values)
    console.print()
    if engine == "native":
        console.print("The engine's command; in a run, names stand for their folders in the cache, and a relative")
        console.print("output_dir lies in the run's own folder:\n")
        command = command_text(config, environ)
    else:
        console.print("The recipe's command, in a checkout of Isaac-GR00T; in a run, the image's engine gets every")
        console.print("argument of the table, and the folders in the cache for the names:\n")
        command = upstream_command_text(config, provenance)
    # Not through rich: a line that it wraps or colours can't be pasted.
    console.file.write(command + "\n")


def command_text(config: FinetuneConfig, environ: Mapping[str, str] = os.environ) -> str:
    """The engine's command line, quoted for a shell, one flag per line."""
    engine = environ.get("PIPPA_FINETUNE_COMMAND") or shlex.join([sys.executable, "-m", "trainer.finetune"])
    return " \\\n  ".join([engine, *_by_flag(to_argv(config))])


def upstream_command_text(config: FinetuneConfig, provenance: Provenance) -> str:
    """The command line of the recipe a preset comes from, for upstream's script as it is today.

    It names what the preset or a flag sets, and last, under a comment that says so, what is pinned: arguments the
    recipe left at a default that upstream has since moved. Names of datasets stand where upstream's docs put them.
    """
    kept = pinned(config)
    named = [name for name, origin in provenance.items() if origin != "default" and name not in kept]
    paths = [name if is_folder(name) else f"./demo_data/{_basename(name)}" for name in config.dataset_path]
    config = config.model_copy(update={"dataset_path": paths})
    comments = []
    if is_tiny(config.base_model_path):
        comments.append(f"# {flag('base_model_path')} {config.base_model_path} is pippa's own: upstream can't load it")
    if kept:
        moved = ", ".join(f"{flag(name)} {getattr(config, name)} (now {config.moved_defaults[name]})" for name in kept)
        comments.append(f"# pinned, since upstream's default has moved: {moved}")
    start, config, named, detail = config.as_upstream(named)
    comments += detail
    argv = [*to_argv(config, named), *to_argv(config, kept)]
    return "\n".join([*comments, " \\\n  ".join([start, *_by_flag(argv)])])


def _basename(name: str) -> str:
    return name.partition("@")[0].rpartition("/")[2]


def _by_flag(argv: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for token in argv:
        if token.startswith("--"):
            lines.append(token)
        else:
            lines[-1] += f" {shlex.quote(token)}"
    return lines


def _wandb_mode(config: FinetuneConfig, environ: Mapping[str, str]) -> str:
    if config.report_to != "wandb":
        return f"not used ({flag('report_to')} {config.report_to})"
    if mode := environ.get("WANDB_MODE"):
        return mode
    return "online" if secret_from(environ, "WANDB_API_KEY") else "offline unless you are logged in (no WANDB_API_KEY)"


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
