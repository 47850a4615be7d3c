"""A run that another machine still trains is waited for: none is trained twice at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.config.settings import pippa_home
from trainer.errors import StoreError
from trainer.runner import workspace
from trainer.store import clock, heartbeat, runs
from trainer.store.object_store import ObjectStore

LOOK_SECONDS = 5.0
WATCHED_SECONDS = 35.0
"""How long one that waits must have seen the store without a gap before silence counts: after an outage of the store a
run that lives writes there within 30 seconds (``trainer.runner.run_log``)."""


def waited_for(
    store: ObjectStore,
    run_id: str,
    say: Callable[[str], None],
    look: Callable[[runs.RunState], None] = lambda _: None,
) -> runs.RunState | None:
    """Wait while another machine trains the run, by its heartbeat in the store; how it stands then.

    ``say`` hears once which machine it is, and ``look`` sees every state. A machine that is silent for
    ``heartbeat.ALIVE`` is taken for lost. None where there was nothing to wait for. A store that goes away meanwhile is
    waited for too; raises ``StoreError`` where it is away from the start.
    """
    state = runs.read_state(store, run_id)
    if state is None or not state.active:
        return None
    own = workspace.run_folder(pippa_home(), run_id) / "lock"
    if workspace.is_held(state.lock) is not None and workspace.lock_file_of(state.lock) == own:
        return None  # what still saves there holds it, and is waited for there
    if not _lives(store, run_id, state):
        return None
    machine = workspace.machine_of(state.lock) or "another machine"
    say(
        f"{run_id} trains on {machine} already, at step {state.step} of {state.of}: waiting for its end. If {machine} "
        f"is silent for {heartbeat.ALIVE.total_seconds():.0f} s, the run continues here."
    )
    watched = seen = time.monotonic()
    while True:
        look(state)
        time.sleep(LOOK_SECONDS)
        try:
            state = runs.read_state(store, run_id) or state
            alive = _lives(store, run_id, state)
        except StoreError:
            continue
        now = time.monotonic()
        if now - seen > WATCHED_SECONDS / 2:
            watched = now
        seen = now
        if not state.active or (not alive and now - watched > WATCHED_SECONDS):
            return state


def _lives(store: ObjectStore, run_id: str, state: runs.RunState) -> bool:
    """Whether the run is alive: known where its lock is of this machine, by its last word elsewhere."""
    held = workspace.is_held(state.lock)
    return heartbeat.is_alive(store, run_id, clock.store_time(store)) if held is None else held
