"""What a run leaves behind while it goes: events on stdout and in a file, its log, its state in the object store."""

from __future__ import annotations

import contextlib
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from trainer.errors import PippaError
from trainer.events import Emitter, ErrorEvent, Event, PhaseEvent, ProgressEvent, WarningEvent
from trainer.masking import Masker
from trainer.store.object_store import ObjectStore
from trainer.store.runs import RunState, write_file, write_state

STATE_SECONDS = 3.0
FILES_SECONDS = 30.0
HURRY_SECONDS = 1.0


class RunLog:
    """Writes a run's events, log and state. Any thread may call it, and no call waits for the object store.

    ``mask`` keeps secrets out of all of it, since an engine may print anything.
    """

    def __init__(
        self,
        store: ObjectStore,
        run_id: str,
        folder: Path,
        state: RunState,
        mask: Masker | None = None,
        stdout: TextIO | None = None,
    ) -> None:
        self.state = state
        self._store = store
        self._run_id = run_id
        self._mask = mask or Masker()
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self.events_file = folder / "events.jsonl"
        self.log_file = folder / "log.txt"
        self._events = self.events_file.open("a", encoding="utf-8")
        self._log = self.log_file.open("a", encoding="utf-8")
        self._emit_out = Emitter(stdout)
        self._emit_file = Emitter(self._events)
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sync, name="record", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        """Tell those who follow the run, and keep it."""
        event = event.model_copy(update={name: self._mask.within(value) for name, value in event})
        with self._lock:
            # Neither a launcher that went away nor a full disk may end the thread that drains the engine's output.
            for emit in (self._emit_out, self._emit_file):
                with contextlib.suppress(OSError):
                    emit(event)
        if isinstance(event, PhaseEvent):
            self.update(phase=event.phase, message=event.message)
        elif isinstance(event, ProgressEvent):
            known = {"loss": event.loss, "lr": event.lr, "grad_norm": event.grad_norm}
            metrics = {**self.state.metrics, **{name: value for name, value in known.items() if value is not None}}
            self.update(step=event.step, of=event.of, metrics=metrics)
        elif isinstance(event, WarningEvent | ErrorEvent):
            self.log(f"{event.event}: {event.message}" + (f"\n  {event.hint}" if event.hint else ""))

    def log(self, text: str) -> None:
        """One line for people: on stderr and in log.txt."""
        text = self._mask(text)
        with self._lock:
            for stream in (self._log, sys.stderr):
                with contextlib.suppress(OSError):
                    stream.write(text + "\n")
                    stream.flush()

    def update(self, **fields: object) -> None:
        """Change fields of the run's state; the store hears of it within seconds."""
        fields = {name: self._mask.within(value) for name, value in fields.items()}
        with self._lock:
            self.state = self.state.model_copy(update={**fields, "updated": datetime.now(UTC)})
        self._changed.set()

    def close(self, *, patient: bool = True, **fields: object) -> bool:
        """Write the last state and upload both files; with ``patient``, ask a store that is away again for a while.

        Returns whether the store took them.
        """
        self.update(**fields)
        self._closing.set()
        self._changed.set()
        self._thread.join(None if patient else HURRY_SECONDS)
        store = self._store if patient else self._store.without_retries()
        try:
            write_state(store, self._run_id, self.state)
            self._upload(store)
        except PippaError as error:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"The run's last state is not in the store: {error}\n")
            return False
        finally:
            for file in (self._events, self._log):
                with contextlib.suppress(OSError):
                    file.close()
        return True

    def _upload(self, store: ObjectStore) -> None:
        for file in (self.events_file, self.log_file):
            write_file(store, self._run_id, file.name, file.read_bytes())

    def _sync(self) -> None:
        """Bring state and files to the store every few seconds; a store that is down is tried again next time."""
        store = self._store.without_retries()
        written: RunState | None = None
        rounds = 0
        while not self._closing.wait(STATE_SECONDS if rounds else 0.05):
            rounds += 1
            files_too = rounds % (FILES_SECONDS // STATE_SECONDS) == 0
            if files_too:
                self.update()  # fetching a model takes minutes without a word, and the run is not lost meanwhile
            with contextlib.suppress(PippaError):
                if self.state is not written:
                    state = self.state
                    write_state(store, self._run_id, state)
                    written = state
                if files_too:
                    self._upload(store)
