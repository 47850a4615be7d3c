"""``python -m flows.orchestration.recording``: records one training in Prefect, as a run of the flow ``train``.

Started by ``flows.orchestration.recorder``, which writes JSON lines to stdin: ``begin``, then each ``event``, then
``end``. The end of stdin without one means that pippa was killed: the flow run is then ``Crashed``. Unless ``--given``
names the server of ``PREFECT_API_URL``, the server is a thread of this process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.embedded.prefect import serving
from trainer.disk import locked
from trainer.errors import from_exit_code
from trainer.events import parse_event

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

LAST_SECONDS = 180.0
"""How long this process may keep recording after it got the last event."""
NICE = 5
"""The training wants the processor more than its record does."""
TICK_SECONDS = 1.0
TAG = "bare-machine"
"""Of the flow runs that no server of a team knows: whatever of them has no process was killed."""

Message = dict[str, Any]


def main() -> int:
    """Record one training; returns the exit code, 0 when all is recorded."""
    os.umask(0o077)  # its database holds the logs of every training
    # Prefect prints; this process's stdout belongs to the recorder.
    answers = os.dup(1)
    os.dup2(2, 1)
    messages = _messages()

    def tick(flow_run_id: str = "") -> None:
        """Report progress, and once the flow run's id."""
        with suppress(OSError):
            os.write(answers, f"{flow_run_id}\n".encode())

    with ExitStack() as stack:
        bare = "--given" not in sys.argv[1:]
        if bare:
            os.nice(NICE)
            # Its server is here, and so whatever takes long is the processor's fault: eight of these at once, say.
            threading.Thread(target=_keep_ticking, args=(tick,), name="ticks", daemon=True).start()
            stack.enter_context(serving())
        import prefect.main  # noqa: F401 - while the training is prepared

        begin = messages.get()
        if begin is None:
            return 0
        request = begin["begin"]
        if bare:
            stack.enter_context(_alive(request["run_id"]))
        return _record(request, messages, tick, bare=bare)


def _keep_ticking(tick: Callable[[], None]) -> None:
    while True:
        tick()
        time.sleep(TICK_SECONDS)


def _messages() -> SimpleQueue[Message | None]:
    """The messages of stdin, None at their end; a thread reads them, so that the end is known in time."""
    messages: SimpleQueue[Message | None] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            messages.put(json.loads(line))
        messages.put(None)
        # Prefect's client would try for minutes to reach a server that is gone, and so would its clean-up at exit.
        time.sleep(LAST_SECONDS)
        os._exit(1)

    threading.Thread(target=read, name="messages", daemon=True).start()
    return messages


@contextmanager
def _alive(run_id: str) -> Generator[None]:
    """Crash the flow runs of killed processes, and be no such process until the end."""
    from flows.orchestration.prefect_client import sync_client

    folder = Path(os.environ["PREFECT_HOME"]) / "recording"
    folder.mkdir(exist_ok=True)
    with locked(folder / "look.lock"), sync_client() as client:
        _crash_the_killed(client, folder)
        own = ExitStack()
        own.enter_context(locked(folder / f"{run_id}.lock"))
    with own:
        try:
            yield
        finally:
            (folder / f"{run_id}.lock").unlink(missing_ok=True)


def _crash_the_killed(client: SyncPrefectClient, folder: Path) -> None:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.filters import FlowRunFilterTags as Tags
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    unfinished = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    wanted = FlowRunFilter(tags=Tags(all_=[TAG]), state=FlowRunFilterState(type=unfinished))
    for run in client.read_flow_runs(flow_run_filter=wanted):
        file = folder / f"{run.name}.lock"
        try:
            with locked(file, wait=False):
                file.unlink()
        except BlockingIOError:
            continue  # it is recorded
        client.set_flow_run_state(run.id, Crashed(message=_killed(run.name)), force=True)


def _killed(run_id: str) -> str:
    return f"Its process was killed. `pippa runs resume {run_id}` continues it, if it is not done."


def _record(request: Message, messages: SimpleQueue[Message | None], tick: Callable[..., None], *, bare: bool) -> int:
    from prefect import flow, runtime, tags
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler
    from prefect.states import Cancelled, Crashed

    from flows.orchestration.artifacts import Artifacts, publish
    from flows.orchestration.cancellation import cancellable
    from trainer.events import ErrorEvent

    parent = os.getppid()

    # The parameters are those of the flow that a worker runs (flows.orchestration.train).
    @flow(name="train", flow_run_name=request["run_id"], persist_result=False, validate_parameters=False)
    def train(preset: str, overrides: Message, launcher: str, engine: str, run_id: str) -> Any:  # noqa: ARG001
        flow_run_id = UUID(str(runtime.flow_run.id))
        tick(str(flow_run_id))
        artifacts = Artifacts(run_id)
        with cancellable(flow_run_id, parent):
            for message in iter(messages.get, None):
                tick()
                if (line := message.get("event")) is not None:
                    if event := parse_event(json.dumps(line)):
                        artifacts(event)
                    continue
                if report := message.get("report"):
                    artifacts.report(report, message["wandb_url"])
                match message["end"]:
                    case "completed":
                        return message["summary"]
                    case "cancelled":
                        return Cancelled(message=message["message"])
                    case _:
                        detail = {name: message[name] for name in ("code", "message", "hint")}
                        publish(run_id, ErrorEvent(**detail))
                        raise from_exit_code(*detail.values())
        return Crashed(message=_killed(run_id))

    with tags(*([TAG] if bare else [])):
        run: Callable[..., Any] = train  # its overloads depend on return_state
        run(**request, return_state=True)
    APILogHandler().flush()
    EventsWorker.drain_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
