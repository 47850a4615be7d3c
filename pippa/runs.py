"""Trainings and evaluations on this machine, started from Python and followed by a function."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pippa.store import Run
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.config.settings import pippa_home
from trainer.errors import UsageError
from trainer.events import EvaluationEvent, Event
from trainer.store.closed_loop import TRIALS, ClosedLoop
from trainer.store.evaluation import Evaluation

if TYPE_CHECKING:
    from flows.orchestration.training import Request
    from trainer.config.argv import Resolved

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
    from flows import preflight
    from flows.commands.train import check_folders, overrides_of
    from flows.orchestration.training import Request
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
        raise _several_nodes("pippa train PRESET --num-nodes N")
    preflight.require_startable(config, where, by)
    check_folders(config)
    run_id = new_run_id(name or chosen.name)
    return _trained(Request(chosen.name, overrides_of(resolved), where, by, run_id), on_event, resolved)


def resume(
    run: str,
    *,
    force: bool = False,
    on_event: OnEvent = lambda _: None,
    launcher: Launcher | None = None,
) -> Run:
    """Continue a run from its last checkpoint with the configuration it had, and return it when it is done.

    As ``pippa runs resume RUN``: ``force`` also continues one that reported within the last minute. Raises
    ``UsageError`` for one that is done or still training, and what ``train`` raises.
    """
    from flows.orchestration.resuming import launcher_of, require_not_elsewhere, resumable
    from flows.orchestration.training import Request
    from flows.settings import load_environment
    from pippa.store import opened_store

    load_environment()
    store = opened_store()
    spec, state = resumable(store, run)
    if spec.config.num_nodes > 1:
        raise _several_nodes(f"pippa runs resume {run}")
    where = _launcher(launcher, launcher_of(spec))
    if not force:
        require_not_elsewhere(store, spec, state, where)
    return _trained(Request(spec.preset, {}, where, spec.engine, run), on_event)


def _trained(request: Request, on_event: OnEvent, resolved: Resolved | None = None) -> Run:
    from rich.console import Console

    from flows.orchestration.startup import started
    from flows.orchestration.training import Training

    config, run_id = resolved and resolved[1], request.run_id
    with (
        started(pippa_home(), run_id, config, Console(quiet=True), request.launcher, request.engine) as around,
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
    all_of_run: bool = False,
    dataset: str | None = None,
    episodes: Sequence[int] = (),
    ablations: bool = True,
    on_event: OnEvent = lambda _: None,
    launcher: Launcher | None = None,
) -> dict[str, Evaluation]:
    """Evaluate checkpoints open loop, keep what comes out with them, and return it by checkpoint.

    As ``pippa evaluate NAME … --dataset … --episodes …``; ``all_of_run`` is ``--all``. Raises as ``train`` does.
    """
    from flows.orchestration.evaluating import open_loop

    arguments = open_loop(names, all_of_run=all_of_run, dataset=dataset, episodes=episodes, ablations=ablations)
    found = _evaluated(names, arguments, on_event, launcher, dataset)
    return {each.checkpoint: Evaluation.model_validate(each.evaluation) for each in found}


def evaluate_closed_loop(
    *names: str,
    all_of_run: bool = False,
    trials: int = TRIALS,
    seed: int = 0,
    on_event: OnEvent = lambda _: None,
    launcher: Launcher | None = None,
) -> dict[str, ClosedLoop]:
    """Let checkpoints act in the synthetic pick-and-place scene, keep how far they got, and return it by checkpoint.

    As ``pippa evaluate NAME … --closed-loop``; for policies of that robot. Raises as ``train`` does.
    """
    from flows.orchestration.evaluating import closed_loop

    arguments = closed_loop(names, all_of_run=all_of_run, trials=trials, seed=seed)
    found = _evaluated(names, arguments, on_event, launcher)
    return {each.checkpoint: ClosedLoop.model_validate(each.evaluation) for each in found}


def _evaluated(
    names: Sequence[str],
    arguments: Sequence[str],
    on_event: OnEvent,
    launcher: Launcher | None,
    dataset: str | None = None,
) -> list[EvaluationEvent]:
    from flows.orchestration.evaluating import evaluate_here, require_known
    from flows.settings import load_environment
    from pippa.store import opened_store

    load_environment()
    where = _launcher(launcher)
    if not names:
        raise UsageError("No checkpoint is named.", 'Name one or more, such as "smoke/best".')
    require_known(opened_store(), names, dataset)
    return evaluate_here(where, pippa_home(), arguments, dict(os.environ), on_event)


def _several_nodes(command: str) -> UsageError:
    return UsageError("From Python, a training has one machine.", f"`{command}` trains on several.")


def _launcher(name: Launcher | None, default: Launcher = "process") -> Launcher:
    from flows.commands.train import chosen_launcher

    found = chosen_launcher(name, default)
    if found == "remote":
        raise UsageError(
            "From Python, trainings and evaluations run on this machine.",
            'Say launcher="process" or launcher="docker"; `pippa train PRESET --launcher remote` trains elsewhere.',
        )
    return found
