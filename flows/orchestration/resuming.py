"""Which runs can be continued, and from where: none may be trained twice at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from flows.launch import LauncherName
from trainer.config.run_spec import RunSpec
from trainer.config.settings import pippa_home
from trainer.errors import UsageError
from trainer.store.object_store import ObjectStore

if TYPE_CHECKING:
    from trainer.store.runs import RunState


def launcher_of(spec: RunSpec) -> LauncherName:
    """Where a run continues by default: in an image, if that is where it was trained."""
    return "docker" if spec.image else "process"


def lives(store: ObjectStore, run_id: str, state: RunState | None, now: Callable[[], datetime]) -> bool:
    """Whether an unfinished run is alive. Where it runs or ran is known best; from elsewhere its last report tells.

    ``now`` asks for the store's time. Raises ``StoreError``.
    """
    from trainer.runner.workspace import is_held
    from trainer.store import heartbeat

    held = is_held(state.lock) if state else None
    return heartbeat.is_alive(store, run_id, now()) if held is None else held


def resumable(store: ObjectStore, run_id: str) -> tuple[RunSpec, RunState | None]:
    """What a run that can be continued is, and how it went. Raises ``UsageError`` for one that can't."""
    from trainer.store import runs

    spec, state = runs.read_spec(store, run_id), runs.read_state(store, run_id)
    if state is not None and state.status == "done":
        raise UsageError(f"{run_id} is done.", f"`pippa runs show {run_id}` tells how it went.")
    return spec, state


def require_not_elsewhere(store: ObjectStore, spec: RunSpec, state: RunState | None, launcher: LauncherName) -> None:
    """Raise ``UsageError`` for an active run that ``launcher`` would not find: it would be trained twice."""
    from trainer.runner.workspace import machine_of
    from trainer.store import clock

    now = partial(clock.store_time, store)
    if state is None or not state.active or not lives(store, spec.run_id, state, now):
        return
    if launcher == "docker":
        from flows.launch.docker.launcher import DockerLauncher

        if DockerLauncher(pippa_home()).knows(spec.run_id):
            return
    attach = f"`pippa runs resume {spec.run_id} --launcher docker` on its machine attaches to its container. "
    where = machine_of(state.lock)
    raise UsageError(
        f"{spec.run_id} is still training{where and f' on {where}'}: it reported step {state.step}/{state.of} last.",
        f"`pippa runs follow {spec.run_id}` watches it, `pippa runs cancel {spec.run_id}` ends it. "
        + (attach if spec.image else "")
        + "A killed run can be resumed a minute after its last report or, where nothing of it can be alive (its "
        f"machine is off), at once: `pippa runs resume {spec.run_id} --force`.",
    )
