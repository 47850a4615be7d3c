"""``pippa evaluate``: which checkpoint, and did it learn the task."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence

from rich.markup import escape

from flows.commands import Add, add_json, console, existing_store, notes, print_json
from flows.commands.checkpoints import NAME_HELP
from flows.commands.train import chosen_launcher
from trainer.config.settings import pippa_home
from trainer.errors import ExitCode, UsageError
from trainer.events import EvaluationEvent, Event, PhaseEvent, WarningEvent
from trainer.store.closed_loop import TRIALS


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa evaluate``."""
    parser = add(
        "evaluate",
        run,
        description="Predict the demonstrated actions open loop, and compare the error with holding still. Figures and "
        "plots are kept with the checkpoints.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{NAME_HELP}; several to compare them")
    parser.add_argument("--all", action="store_true", help="all checkpoints of each RUN that is named")
    parser.add_argument("--dataset", help="another dataset of the object store (default: the one it was trained on)")
    parser.add_argument("--episodes", nargs="+", type=int, metavar="N", help="episodes to evaluate, by number")
    parser.add_argument("--no-ablations", action="store_true", help="leave out: does it look, does it listen?")
    parser.add_argument(
        "--closed-loop",
        action="store_true",
        help="let it act in the synthetic pick-and-place scene instead; for policies of that robot",
    )
    parser.add_argument("--trials", type=int, metavar="N", help=f"with --closed-loop: scenes to try [{TRIALS}]")
    parser.add_argument("--seed", type=int, metavar="S", help="with --closed-loop: which scenes [0]")
    parser.add_argument("--launcher", choices=("process", "docker"), help="where it runs; default: PIPPA_LAUNCHER")
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Evaluate, and print a table or JSON."""
    from flows.orchestration.evaluating import closed_loop, evaluate_here, open_loop, require_known
    from flows.views.evaluation import MARKS, evaluations_table, joints_table, print_sentences
    from trainer.config.presets import goal_of
    from trainer.evaluation.verdict import verdict
    from trainer.store import registry
    from trainer.store.evaluation import Evaluation

    _require_fitting(arguments)
    launcher = chosen_launcher(arguments.launcher)
    if launcher == "remote":
        raise UsageError(
            "`pippa evaluate` runs on this machine.", "The deployment `evaluate` does the same where a worker is."
        )
    names, dataset = arguments.names, arguments.dataset
    if arguments.closed_loop:
        options = closed_loop(names, all_of_run=arguments.all, trials=arguments.trials, seed=arguments.seed)
    else:
        ablations, episodes = not arguments.no_ablations, arguments.episodes
        options = open_loop(names, all_of_run=arguments.all, dataset=dataset, episodes=episodes, ablations=ablations)
    store = existing_store("checkpoint")
    require_known(store, names, dataset)
    screen = notes()

    def tell(event: Event) -> None:
        if isinstance(event, PhaseEvent):
            screen.print(f"[dim]{escape(event.message)}[/]", soft_wrap=True)
        elif isinstance(event, WarningEvent):
            screen.print(f"[yellow]![/] {escape(event.message)} {escape(event.hint)}", soft_wrap=True)

    events: list[EvaluationEvent] = evaluate_here(launcher, pippa_home(), options, dict(os.environ), tell)
    if arguments.closed_loop:
        return _show_closed_loop(events, arguments)
    if arguments.json:
        documents = [
            {"checkpoint": each.checkpoint, "on": each.on, "metrics": each.metrics, **(each.evaluation or {})}
            for each in events
        ]
        print_json(documents)
        return ExitCode.DONE
    named = [(each.checkpoint, Evaluation.model_validate(each.evaluation)) for each in events]
    output = console()
    output.print(evaluations_table(named))
    if len(named) == 1:
        output.print()
        output.print(joints_table(named[0][1]))
    presets = {registry.resolve(store, name).spec.preset for name in names}
    goal = goal_of(next(iter(presets))) if len(presets) == 1 else "generalise"
    if len(named) == 1 and (judged := verdict({events[0].step: named[0][1]}, goal)):
        output.print(f"\n{MARKS[judged.level]} [bold]{escape(judged.summary)}[/]", soft_wrap=True)
        print_sentences(output, judged.reasons)
        print_sentences(output, judged.advice, "→")
    return ExitCode.DONE


def _require_fitting(arguments: Namespace) -> None:
    """Raise ``UsageError`` for flags of the one evaluation with the other."""
    open_loop = {"--dataset": arguments.dataset, "--episodes": arguments.episodes}
    closed_loop = {"--trials": arguments.trials, "--seed": arguments.seed}
    given = open_loop if arguments.closed_loop else closed_loop
    if wrong := [flag for flag, value in given.items() if value is not None]:
        if arguments.closed_loop:
            raise UsageError(f"--closed-loop makes its scenes, and takes no {wrong[0]}.", "Leave one of them out.")
        raise UsageError(f"{wrong[0]} is for --closed-loop.", "Add --closed-loop, or leave it out.")


def _show_closed_loop(events: Sequence[EvaluationEvent], arguments: Namespace) -> int:
    """Print how far each checkpoint got."""
    from flows.views.closed_loop import closed_loop_table
    from trainer.store.closed_loop import ClosedLoop

    named = [(each.checkpoint, ClosedLoop.model_validate(each.evaluation)) for each in events]
    if arguments.json:
        print_json(
            [
                {
                    "checkpoint": name,
                    **found.model_dump(),
                    "success_rate": found.success_rate,
                    "interval": found.interval,
                }
                for name, found in named
            ]
        )
        return ExitCode.DONE
    console().print(closed_loop_table(named))
    return ExitCode.DONE
