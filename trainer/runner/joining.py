"""``trainer run`` on a node other than 0: it trains along, and writes nothing to the object store."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import flag
from trainer.config.run_spec import RunSpec
from trainer.config.settings import pippa_home
from trainer.disk import private_folder
from trainer.errors import EngineError, ExitCode, PippaError, StoreError, UsageError
from trainer.events import CheckpointEvent, Emitter, PhaseEvent
from trainer.forecast import read_sections
from trainer.memory_advice import advice
from trainer.runner import workspace
from trainer.runner.child_process import Signals, run_child
from trainer.runner.engine_command import engine_command, engine_environ
from trainer.runner.nodes import Node, why_not
from trainer.runner.run_spec_builder import require_engine_here
from trainer.store import clock, jobs, runs
from trainer.store.heartbeat import ALIVE, is_alive
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
    with _told(store, run_id, node):
        for name in _BY_NODE_0:
            if (here := getattr(config, name)) != (there := getattr(spec.config, name)):
                raise UsageError(
                    f"{flag(name)} is {_shown(there)} on node 0, which began {run_id} as the job {job}, and "
                    f"{_shown(here)} on node {node.rank} ({socket.gethostname()}).",
                    "Give every node the same command; another --job is another run.",
                )
    # The engines compare the rest when they meet, and then all nodes hear of it.
    return join(store, spec.model_copy(update={"config": config}), node, signals, environ)


def join(
    store: ObjectStore, spec: RunSpec, node: Node, signals: Signals, environ: Mapping[str, str] = os.environ
) -> int:
    """Train along in a run. Returns 0 when it is trained, 128 + the signal that stopped it; raises ``PippaError``."""
    home, emit = pippa_home(environ), Emitter()
    with _told(store, spec.run_id, node):
        require_engine_here(spec.engine, spec.run_id)
        private_folder(home)
    folder = workspace.run_folder(home, spec.run_id) / f"node-{node.rank}"
    with workspace.locked(folder, _log) as lock:
        if max(workspace.registered_steps(store, spec.run_id), default=0) >= spec.config.max_steps:
            _log(f"{spec.run_id} is trained.")
            return ExitCode.DONE
        emit(PhaseEvent(phase="prepare", message=f"Node {node.rank} of {node.count}: fetching dataset and base model."))
        with _told(store, spec.run_id, node):
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


@contextmanager
def _told(store: ObjectStore, run_id: str, node: Node) -> Generator[None]:
    """Tell node 0 of a ``PippaError`` of this block; it would wait half an hour for this node."""
    try:
        yield
    except PippaError as error:
        _tell(store, run_id, node, error)
        raise


def _tell(store: ObjectStore, run_id: str, node: Node, error: PippaError) -> None:
    _log(f"{error.message} Telling node 0, which waits for this node.")
    # Its rendezvous is torch's, which this process does without.
    command = [sys.executable, "-m", "trainer.training.refusal"]
    child = subprocess.Popen(
        [*command, str(node.rank), str(node.count), node.host, str(node.port)], stdin=subprocess.PIPE, text=True
    )
    try:
        with suppress(BrokenPipeError):
            child.communicate(json.dumps(why_not(node, error)), timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        _while_awaited(store, run_id, child)
    finally:
        child.kill()
        child.wait()


def _while_awaited(store: ObjectStore, run_id: str, child: subprocess.Popen[str]) -> None:
    """Give ``child`` time to tell while node 0 is at the run, and a minute in which it may come."""
    last = time.monotonic()
    while child.poll() is None and time.monotonic() - last < ALIVE.total_seconds():
        time.sleep(_POLL_SECONDS)
        with suppress(StoreError):
            state = runs.read_state(store, run_id)
            if (state is None or state.active) and is_alive(store, run_id, clock.store_time(store)):
                last = time.monotonic()


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else value if isinstance(value, str) else "another"


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
