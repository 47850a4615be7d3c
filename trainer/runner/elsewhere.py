"""A run that another machine still trains is waited for: none is trained twice at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.runner import workspace
from trainer.store import clock, heartbeat, runs
from trainer.store.object_store import ObjectStore

LOOK_SECONDS = 5.0


def waited_for(
    store: ObjectStore,
    run_id: str,
    say: Callable[[str], None],
    look: Callable[[runs.RunState], None] = lambda _: None,
) -> runs.RunState | None:
    """Wait while another machine trains the run, by its heartbeat in the store; how it stands then.

    ``say`` hears once which machine it is, and ``look`` sees every state. A machine that falls silent for
    ``heartbeat.ALIVE`` is taken for lost. None where there was nothing to wait for. Raises ``StoreError``.
    """
    waited = None
    while (state := runs.read_state(store, run_id)) is not None and state.active:
        # What was killed on this machine is known to be dead, and what is still saving here holds the run's lock.
        if workspace.is_held(state.lock) is not None or not heartbeat.is_alive(store, run_id, clock.store_time(store)):
            break
        if waited is None:
            machine = workspace.machine_of(state.lock) or "another machine"
            say(
                f"{run_id} trains on {machine} already, at step {state.step} of {state.of}: waiting for its end. If "
                f"{machine} is silent for {heartbeat.ALIVE.total_seconds():.0f} s, the run continues here."
            )
        waited = state
        look(state)
        time.sleep(LOOK_SECONDS)
    return state if waited else None
