"""The command ``trainer run``: a new run, one of a job, or one whose spec is in the store."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from trainer.command_line import Parser
from trainer.config.argv import require_engine_can
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import flag
from trainer.config.run_spec import RunSpec, new_run_id
from trainer.config.settings import pippa_home
from trainer.config.training_flags import DESCRIPTION, add_training_flags, asked
from trainer.disk import private_folder
from trainer.errors import ExitCode, UsageError
from trainer.events import Emitter, PhaseEvent
from trainer.output import stdout_is_log
from trainer.runner import elsewhere
from trainer.runner.child_process import Interrupted, Signals
from trainer.runner.joining import JOB_HELP, join, join_job, require_job
from trainer.runner.nodes import this_node
from trainer.runner.parent_watch import die_with_parent
from trainer.runner.placement import DEVICE_FIELDS, placed
from trainer.runner.run import Run
from trainer.runner.run_spec_builder import engine_from, new_spec, prepare_sources, require_engine_here
from trainer.store import jobs, runs
from trainer.store.object_store import ObjectStore
from trainer.store.stores import existing_store, open_store

_EXAMPLES = ("trainer run smoke --max-steps 20", "trainer run --run-id RUN")


def main(argv: Sequence[str]) -> int:
    """Run ``trainer run`` with ``argv`` and return the exit code. Raises ``PippaError`` before a run exists."""
    parser = Parser("trainer run", collects=True, description=f"Train, upload checkpoints, evaluate. {DESCRIPTION}")
    group = add_training_flags(parser, argv, _EXAMPLES)
    group.add_argument("--run-id", metavar="RUN", help="start or continue a run whose spec is in the object store")
    group.add_argument("--job", metavar="ID", help=JOB_HELP)
    arguments = parser.parse_args(argv)
    die_with_parent()
    stdout_is_log()
    with Signals() as signals:
        try:
            return _stored(arguments, signals) if arguments.run_id else _new(arguments, signals)
        except Interrupted:
            return signals.exit_code


def _new(arguments: Namespace, signals: Signals) -> int:
    (preset, config, provenance), name = asked(arguments, "trainer run")
    engine, node, job = engine_from(), this_node(config.num_nodes), arguments.job
    require_engine_can(config, engine)
    require_engine_here(engine)
    require_job(node, job)
    private_folder(pippa_home())
    store = open_store()
    store.open()
    if node.rank:
        return join_job(store, config, job, node, signals)
    run_id = jobs.run_of(store, job, name) if job else new_run_id(name)
    if job and runs.read_file(store, run_id, "spec.json") is not None:
        return _again(store, runs.read_spec(store, run_id), config, job, signals)
    emit = Emitter()
    emit(PhaseEvent(phase="prepare", message="Importing dataset and base model into the store."))
    datasets, base_model = prepare_sources(store, config, log=_say)
    spec = new_spec(preset, config, provenance, datasets, base_model, engine, run_id=run_id)
    runs.write_spec(store, spec)
    return Run(spec, store, signals).run()


def _again(store: ObjectStore, spec: RunSpec, config: FinetuneConfig, job: str, signals: Signals) -> int:
    """The run of a job that was started before."""
    if spec.config != config:
        raise UsageError(
            f"The job {job} is {spec.run_id} already, with other arguments.",
            f"`trainer run --run-id {spec.run_id}` continues it as it was; another --job is another run.",
        )
    state = elsewhere.waited_for(store, spec.run_id, _say) or runs.read_state(store, spec.run_id)
    if state and state.status == "done":
        _say(f"{spec.run_id} is done.")
        return ExitCode.DONE
    return Run(spec, store, signals).run()


def _stored(arguments: Namespace, signals: Signals) -> int:
    own = ("run_id", "problems")
    given = {name: value for name, value in vars(arguments).items() if name not in own and value is not None}
    devices = {name: given.pop(name) for name in DEVICE_FIELDS if name in given}
    if given or arguments.problems:
        raise UsageError(
            "\n".join(
                [
                    *arguments.problems,
                    f"--run-id takes nothing beside it but {', '.join(map(flag, DEVICE_FIELDS))}: a run keeps what it "
                    "was started with.",
                ]
            ),
            f"`trainer run --run-id {arguments.run_id}` continues it.",
        )
    store = existing_store("run")
    spec, change = placed(runs.read_spec(store, arguments.run_id), devices, "trainer run")
    require_engine_here(spec.engine, spec.run_id)
    private_folder(pippa_home())
    if (node := this_node(spec.config.num_nodes)).rank:
        return join(store, spec, node, signals)
    if change:
        _say(change)
    return Run(spec, store, signals).run()


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201
