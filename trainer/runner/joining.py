"""``trainer run`` on a node other than 0: it trains along, and writes nothing to the object store."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import flag
from trainer.config.run_spec import RunSpec
from trainer.config.settings import pippa_home
from trainer.disk import private_folder
from trainer.errors import EngineError, ExitCode, UsageError
from trainer.events import CheckpointEvent, Emitter, PhaseEvent
from trainer.forecast import read_sections
from trainer.memory_advice import advice
from trainer.runner import workspace
from trainer.runner.child_process import Signals, run_child
from trainer.runner.engine_command import engine_command, engine_environ
from trainer.runner.nodes import Node
from trainer.runner.run_spec_builder import require_engine_here
from trainer.store import jobs, runs
from trainer.store.local_cache import cached
from trainer.store.object_store import ObjectStore

JOB_HELP = (
    "id of the scheduler's job that this command is: the same job started again, or on several nodes, is the same run"
)
WAIT_SECONDS = 1800.0
"""How long node 0 may take to bring dataset and base model into the store, and to say what the run is."""
_POLL_SECONDS = 2.0

T = TypeVar("T")


_BY_NODE_0 = ("dataset_path", "data_config", "base_model_path")
"""What node 0 brings into the store: the engines meet too late to compare it."""


def join_job(
    store: ObjectStore,
    config: FinetuneConfig,
    job: str,
    node: Node,
    signals: Signals,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Train along in the run of ``job``, once node 0 has begun it. Returns the exit code; raises ``PippaError``.

    ``config`` is what this node was told; where it is not what node 0 was told, nobody trains.
    """
    run_id = _awaited(lambda: jobs.find(store, job), f"Node 0 has not begun the job {job}.")
    _awaited(lambda: runs.read_file(store, run_id, "spec.json"), f"Node 0 has not begun {run_id}.")
    spec = runs.read_spec(store, run_id)
    for name in _BY_NODE_0:
        if getattr(config, name) != getattr(spec.config, name):
            raise UsageError(
                f"{flag(name)} on node {node.rank} is not that of {run_id}, which node 0 began as the job {job}.",
                "Give every node the same command; another --job is another run.",
            )
    # The engines compare the rest when they meet, and then all nodes hear of it.
    return join(store, spec.model_copy(update={"config": config}), node, signals, environ)


def join(
    store: ObjectStore, spec: RunSpec, node: Node, signals: Signals, environ: Mapping[str, str] = os.environ
) -> int:
    """Train along in a run. Returns 0 when it is trained, 128 + the signal that stopped it; raises ``PippaError``."""
    require_engine_here(spec.engine, spec.run_id)
    home, emit = pippa_home(environ), Emitter()
    private_folder(home)
    folder = workspace.run_folder(home, spec.run_id) / f"node-{node.rank}"
    with workspace.locked(folder, _log) as lock:
        if max(workspace.registered_steps(store, spec.run_id), default=0) >= spec.config.max_steps:
            _log(f"{spec.run_id} is trained.")
            return ExitCode.DONE
        emit(PhaseEvent(phase="prepare", message=f"Node {node.rank} of {node.count}: fetching dataset and base model."))
        datasets = [cached(store, ref, home, _log) for ref in spec.datasets]
        base_model = cached(store, spec.base_model, home, _log)
        command = engine_command(spec, datasets, base_model, folder, folder / "output", environ, resume=False)
        outcome = run_child(
            command,
            engine_environ(environ),
            signals,
            emit=lambda event: None if isinstance(event, CheckpointEvent) else emit(event),
            log=_log,
            keep_fds=[lock],
        )
    if signals.received is not None:
        return signals.exit_code
    if outcome.returncode == ExitCode.TERMINATED and outcome.error is None:
        return ExitCode.TERMINATED
    if problem := outcome.problem(advice(spec.config, read_sections(base_model))):
        raise problem
    return ExitCode.DONE


def require_job(node: Node, job: str | None) -> None:
    """Raise ``UsageError`` for several nodes that have no way to know that they mean the same run."""
    if node.count > 1 and not job:
        raise UsageError(
            f"--num-nodes {node.count}: what makes the nodes' commands one run?",
            "Give them all the same --job ID, such as the scheduler's id of this job.",
        )


def _awaited(ask: Callable[[], T | None], problem: str) -> T:
    deadline, reported = time.monotonic() + WAIT_SECONDS, False
    while (found := ask()) is None:
        if time.monotonic() > deadline:
            raise EngineError(problem, "Its output says what it is at; start every node again.")
        if not reported:
            _log(f"{problem} Waiting for it.")
            reported = True
        time.sleep(_POLL_SECONDS)
    return found


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
