"""Trainings and evaluations on this machine, started from Python and followed by a function."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pippa.store import Run
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.config.settings import pippa_home
from trainer.errors import UsageError
from trainer.events import Event
from trainer.store.evaluation import Evaluation

Launcher = Literal["process", "docker"]
OnEvent = Callable[[Event], None]


def train(
    preset: str | Path | None = None,
    *,
    name: str | None = None,
    on_event: OnEvent = lambda _: None,
    launcher: Launcher | None = None,
    engine: Engine | None = None,
    **arguments: Any,
) -> Run:
    """Train, and return the run when it is done, as ``pippa train PRESET --name NAME`` does with these flags.

    ``preset`` is the name of one, the path of a TOML file, or None for upstream's defaults. ``arguments`` are those of
    a training by their Python names (``max_steps=5000``, ``dataset_path=["./my-robot"]``). ``on_event`` hears every
    event as it comes; it must not wait for anything. Ctrl-C in the main thread saves a last checkpoint and raises
    ``KeyboardInterrupt``; the run can be resumed. Raises what the command line would say, before anything starts where
    it can be known then.
    """
    from rich.console import Console

    from flows import preflight
    from flows.commands.train import check_folders, overrides_of
    from flows.orchestration.startup import started
    from flows.orchestration.training import Request, Training
    from flows.settings import load_environment
    from trainer.config.argv import resolve_values
    from trainer.config.preset_files import read_preset
    from trainer.config.presets import DEFAULT, PRESETS, get_preset
    from trainer.config.run_spec import new_run_id
    from trainer.config.training_flags import name_problems
    from trainer.runner.run_spec_builder import engine_from

    load_environment()
    where, by = _launcher(launcher), engine or engine_from()
    chosen = (
        DEFAULT if preset is None else get_preset(preset) if isinstance(preset, str) else read_preset(preset, PRESETS)
    )
    resolved = resolve_values(chosen, arguments, f"pippa train {preset or ''}".strip(), problems=name_problems(name))
    config: FinetuneConfig = resolved[1]
    if config.num_nodes > 1:
        raise UsageError(
            "From Python, a training has one machine.", "`pippa train PRESET --num-nodes N` trains on several."
        )
    preflight.require_startable(config, where, by)
    check_folders(config)
    run_id = new_run_id(name or chosen.name)
    request = Request(chosen.name, overrides_of(resolved), where, by, run_id)
    with (
        started(pippa_home(), run_id, config, Console(quiet=True), where, by) as around,
        around.recorder.recording(request) as done,
    ):

        def observe(event: Event) -> None:
            around.recorder(event)
            on_event(event)

        trained = Training(around.store, request, observe, around.hold, resolved).run()
        done(trained)
    if trained.interrupted:
        raise KeyboardInterrupt
    return Run(around.store, run_id)


def evaluate(
    *names: str,
    dataset: str | None = None,
    episodes: Sequence[int] = (),
    ablations: bool = True,
    on_event: OnEvent = lambda _: None,
    launcher: Launcher | None = None,
) -> dict[str, Evaluation]:
    """Evaluate checkpoints open loop, keep what comes out with them, and return it by checkpoint.

    As ``pippa evaluate NAME … --dataset … --episodes …``. Raises as ``train`` does.
    """
    from flows.orchestration.evaluating import evaluate_here
    from flows.settings import load_environment
    from pippa.store import open_store

    load_environment()
    where, store = _launcher(launcher), open_store()
    for name in names:  # unknown names are refused before anything starts
        store.checkpoint(name)
    options = [*names, *(["--dataset", dataset] if dataset else [])]
    options += ["--episodes", *map(str, episodes)] if episodes else []
    options += [] if ablations else ["--no-ablations"]
    found = evaluate_here(where, pippa_home(), options, dict(os.environ), on_event)
    return {each.checkpoint: Evaluation.model_validate(each.evaluation) for each in found}


def _launcher(name: Launcher | None) -> Launcher:
    from flows.commands.train import chosen_launcher

    found = chosen_launcher(name)
    if found == "remote":
        raise UsageError(
            "From Python, trainings and evaluations run on this machine.",
            'Say launcher="process" or launcher="docker"; `pippa train PRESET --launcher remote` trains elsewhere.',
        )
    return found
