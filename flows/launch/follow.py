"""Follows a trainer from its start to its end, and stops it in good order when it must stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from flows.launch import TrainerHandle
from trainer.errors import DamagedObjectError, ExitCode, PippaError, StoreError, from_exit_code
from trainer.events import ErrorEvent, Event, WarningEvent
from trainer.output import silence_lost_output
from trainer.stop_signals import ECHO_SECONDS, stop_signals

TICK_SECONDS = 0.2
LOG_TAIL_LINES = 15
STOPPED = (ExitCode.HANGUP, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
"""The exit codes of a trainer that a signal stopped."""


class TrainerLostError(PippaError):
    """The trainer was killed from outside, or its machine went away; it resumes from its last checkpoint."""


class StoppedError(PippaError):
    """The trainer was stopped by a signal that pippa did not send; it saved before it ended."""

    exit_code = ExitCode.TERMINATED


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    exit_code: int
    error: ErrorEvent | None
    interrupted: bool
    """Ctrl-C asked for it."""


class Interrupts:
    """Ctrl-C while a training runs, as a context manager: counted, so that it never lands in the middle of a call.

    Two within ``ECHO_SECONDS`` count as one.

    In any thread but the main one Python delivers no signals; there the count stays 0.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last = float("-inf")
        self._main = threading.current_thread() is threading.main_thread()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        self._take(signal.SIGINT)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def begin_to_end(self) -> None:
        """The exception ends this process: from now on each signal counts as the second or later."""
        self.count = max(self.count, 1)
        self._last = time.monotonic()
        for number in stop_signals():
            self._take(number)

    def _take(self, number: signal.Signals) -> None:
        if self._main and number not in self._before:
            self._before[number] = signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last > ECHO_SECONDS:
            self.count += 1
        self._last = now


def follow(
    training: TrainerHandle,
    observe: Callable[[Event], None],
    grace: float,
    leave: type[BaseException] | None = None,
) -> Outcome:
    """Pass every event to ``observe`` until the trainer has ended, and say how it did.

    The first Ctrl-C asks the trainer to save and end, which may take ``grace`` seconds; the second ends it at once.
    Any other exception (SIGTERM's and Prefect's cancellation among them) stops it in the same way and is raised again;
    then a further signal ends it at once. No process and no container of the trainer is left when this returns or
    raises.

    The exception ``leave`` leaves a container to the one who raised it, who has more time to stop it than this process.
    """
    with Interrupts() as interrupts:
        run = _Run(training, observe, grace, interrupts)
        try:
            run.until_ended()
        except BaseException as error:
            if leave is not None and isinstance(error, leave) and training.outlives:
                raise
            interrupts.begin_to_end()
            silence_lost_output()
            run.stop("Stopping the training: it saves and uploads a last checkpoint.")
            try:
                run.until_ended()
            finally:
                training.kill()
                silence_lost_output()
            raise
        training.kill()
        return Outcome(training.exit_code or 0, run.error, interrupts.count > 0)


class _Run:
    def __init__(
        self, training: TrainerHandle, observe: Callable[[Event], None], grace: float, interrupts: Interrupts
    ) -> None:
        self.error: ErrorEvent | None = None
        self._training = training
        self._observe = observe
        self._grace = grace
        self._interrupts = interrupts
        self._deadline = float("inf")
        self._killed = False

    def until_ended(self) -> None:
        while True:
            event = self._training.next_event(TICK_SECONDS)
            if event is not None:
                if isinstance(event, ErrorEvent):
                    self.error = event
                self._tell(event)
            elif self._training.exit_code is not None:
                return
            if self._interrupts.count:
                self.stop(
                    "Stopping the training: it saves and uploads a last checkpoint. Ctrl-C again ends it at once."
                )
            if (self._interrupts.count > 1 or time.monotonic() > self._deadline) and not self._killed:
                self._killed = True
                self._training.kill()

    def stop(self, message: str) -> None:
        if self._deadline == float("inf"):
            self._deadline = time.monotonic() + self._grace
            self._training.terminate()
            self._tell(WarningEvent(message=message))

    def _tell(self, event: Event) -> None:
        try:
            self._observe(event)
        except (OSError, SystemExit):
            # A screen that is gone (rich ends a process then) must not end what saves the training.
            if self._deadline == float("inf"):
                raise


def failure(outcome: Outcome, training: TrainerHandle) -> PippaError | None:
    """The error that a bad end means; None when the training was done."""
    code = outcome.exit_code
    if code == 0:
        return None
    if outcome.error is not None:
        return from_exit_code(outcome.error.code, outcome.error.message, outcome.error.hint)
    where = f"The trainer's log is {training.log}."
    if code in STOPPED:
        return StoppedError("The trainer was stopped from outside.", where)
    if code < 0:
        return TrainerLostError(training.lost or f"The trainer was killed by {signal.Signals(-code).name}.", where)
    return from_exit_code(
        code,
        f"The trainer ended with exit code {code} and did not say why. The end of its log:\n{_tail(training)}",
        where,
    )


def can_heal(error: BaseException) -> bool:
    """Whether starting the same run again may succeed: the store was away, or the trainer was lost."""
    return isinstance(error, StoreError | TrainerLostError) and not isinstance(error, DamagedObjectError)


def _tail(training: TrainerHandle) -> str:
    try:
        lines = training.log.read_text(errors="replace").splitlines()
    except OSError:
        return "(none)"
    return "\n".join(lines[-LOG_TAIL_LINES:]) or "(empty)"
