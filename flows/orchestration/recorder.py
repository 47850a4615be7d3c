"""What Prefect gets to know of a training that is typed in a terminal, without the training ever waiting for it.

A separate process (``flows.orchestration.recording``) makes the flow run, and gets every event through its
stdin; on a machine without a Prefect server it also is the server. A Prefect that is slow, hangs or is killed costs the
record, never the training: what does not fit into the queue is dropped, and the end waits for what is left of it only
as long as the process sends heartbeats.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self
from uuid import UUID

from flows.embedded.prefect import given_api, server_environment
from flows.orchestration.training import Request, Trained
from flows.settings import prefect_environment
from trainer.errors import PippaError
from trainer.events import Event
from trainer.masking import without_secrets

WAITING_MESSAGES = 1000
SILENT_SECONDS, MAX_SECONDS = 20.0, 180.0
"""A training that is done waits for its record while that makes progress, and at most this long."""
FLOW_RUN_SECONDS = 120.0
LOG_LIMIT_BYTES = 4_000_000


class Recorder:
    """The process that records; a context manager that ends it. ``warn`` hears, once, of what is missing in Prefect."""

    def __init__(self, home: Path, warn: Callable[[str], None], environ: Mapping[str, str] = os.environ) -> None:
        self.log = home / "prefect" / "recording.log"
        self._warn = warn
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue(WAITING_MESSAGES)
        self._dropped = 0
        self._begun = False
        self._heard = time.monotonic()
        self._flow_run_id: queue.Queue[str] = queue.Queue()
        if environ.get("PREFECT_API_URL"):
            command = ["--given"]
            # The store's and others' keys are no concern of Prefect's.
            kept = without_secrets(environ, [name for name in environ if name.startswith("PREFECT_")])
            environ = {**kept, **prefect_environment(home, environ), **given_api(environ).to_environ()}
        else:
            command = []
            environ = server_environment(home, environ)
        with self._opened_log() as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.orchestration.recording", *command],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is for the training
            )
        self._writer = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, name="recorder-answers", daemon=True).start()

    def _opened_log(self) -> IO[bytes]:
        """The file for the words of the process; a full disk takes none, and must not keep a training from starting."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
            return self.log.open("ab")
        except OSError:
            return Path(os.devnull).open("wb")

    def __call__(self, event: Event) -> None:
        """Record ``event``. Returns at once."""
        self._put({"event": event.model_dump(mode="json", exclude_none=True)})

    @contextmanager
    def recording(self, request: Request) -> Generator[Callable[[Trained], None]]:
        """The flow run: from here to the end of the context, which decides its state. To be called when it is done."""
        self._begun = True
        self._put({"begin": dataclasses.asdict(request)})
        end: dict[str, Any] = {"end": "cancelled", "message": "Stopped."}

        def done(trained: Trained) -> None:
            nonlocal end
            report = trained.report
            end = {
                "end": "cancelled" if trained.interrupted else "completed",
                "message": "Stopped; it saved and can be continued.",
                "report": trained.markdown,
                "wandb_url": report.wandb_url,
                "summary": report.model_dump(mode="json"),
            }

        try:
            yield done
        except PippaError as error:
            end = {"end": "failed", "code": error.exit_code, "message": error.message, "hint": error.hint}
            raise
        except Exception as error:
            end = {"end": "failed", "code": 1, "message": f"{type(error).__name__}: {error}", "hint": ""}
            raise
        finally:
            self._put(end)

    def flow_run_id(self) -> UUID:
        """The flow run that was begun. Raises ``PippaError`` when Prefect does not make it."""
        deadline = time.monotonic() + FLOW_RUN_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(queue.Empty):
                return UUID(self._flow_run_id.get(timeout=0.2))
        raise PippaError(f"The Prefect server {os.environ['PREFECT_API_URL']} takes no runs.", f"See {self.log}.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._begun:
                self._wait()
        except KeyboardInterrupt:
            pass  # Enough of waiting; how the training ended is known.
        finally:
            self._process.kill()
            whole = self._process.wait() == 0
        if self._begun and (self._dropped or not whole):
            self._warn(f"Prefect has no whole record of this run; the training does not need it. Its log: {self.log}")

    def _wait(self) -> None:
        """Wait for the record to be complete, while it makes progress."""
        began = time.monotonic()
        # It may have had nothing to say for a while.
        self._heard = began
        threading.Thread(target=self._messages.put, args=(None,), daemon=True).start()
        while time.monotonic() < min(self._heard + SILENT_SECONDS, began + MAX_SECONDS):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
                return

    def _put(self, message: dict[str, Any]) -> None:
        try:
            self._messages.put_nowait(message)
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - a pipe
        # It is gone: nothing reads what follows, and the queue must not fill up.
        with suppress(OSError), stdin:
            for message in iter(self._messages.get, None):
                stdin.write(json.dumps(message).encode() + b"\n")
                stdin.flush()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - a pipe
        with stdout:
            for line in stdout:
                self._heard = time.monotonic()
                if flow_run_id := line.decode().strip():
                    self._flow_run_id.put(flow_run_id)
