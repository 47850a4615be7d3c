"""The errors a user can cause, and the exit codes they end in (docs/troubleshooting.md lists both)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What a ``pippa`` or ``trainer`` process says on its way out."""

    DONE = 0
    FAILED = 1
    """A defect of pippa itself: anything that is not one of the named cases below."""
    USAGE = 2
    DATASET = 3
    STORE = 4
    OUT_OF_MEMORY = 5
    DISK_FULL = 6
    ENGINE = 7
    DAMAGED = 8
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


LONGEST = 10_000
"""Characters of a message. What it quotes may be a stranger's, and a gigabyte long."""


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


class PippaError(Exception):
    """An error with a cure: what was wrong and where (``message``), and what to do about it (``hint``).

    ``str()`` gives both, so that a traceback or a log that only prints the exception still tells the cure.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        message, hint = _short(message), _short(hint)
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(PippaError):
    """An unknown preset, flag or name, or a combination that can't work."""

    exit_code = ExitCode.USAGE


class DatasetError(PippaError):
    """A dataset that training would fail on."""

    exit_code = ExitCode.DATASET


class StoreError(PippaError):
    """The object store can't be reached, refuses the credentials, or lacks something."""

    exit_code = ExitCode.STORE


class ServerError(PippaError):
    """A server that pippa needs, Prefect's or Docker's, can't be reached or denies access."""

    exit_code = ExitCode.STORE


class DamagedObjectError(StoreError):
    """An object in the store is not what was written: ``key``. Only what needs it is hurt."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, message: str, hint: str = "", key: str = "") -> None:
        super().__init__(message, hint)
        self.key = key


class OutOfMemoryError(PippaError):
    """CUDA, host or shared memory ran out; the message says which, the hint what to lower."""

    exit_code = ExitCode.OUT_OF_MEMORY


class DiskFullError(PippaError):
    """No space left where pippa writes."""

    exit_code = ExitCode.DISK_FULL


class EngineError(PippaError):
    """The fine-tuning engine ended with its own error."""

    exit_code = ExitCode.ENGINE


def from_exit_code(code: int, message: str, hint: str = "", otherwise: type[PippaError] = PippaError) -> PippaError:
    """The error another process ended with, by its exit code; ``otherwise`` where the code is no error's."""
    kinds = (UsageError, DatasetError, StoreError, OutOfMemoryError, DiskFullError, EngineError, DamagedObjectError)
    return next((kind for kind in kinds if kind.exit_code == code), otherwise)(message, hint)


def require_all(checks: Iterable[Callable[[], object]]) -> None:
    """Call every one of ``checks`` and raise one error that says all their ``PippaError``, of the kind of the first."""
    errors: list[PippaError] = []
    for check in checks:
        try:
            check()
        except PippaError as error:
            errors.append(error)
    if len(errors) > 1:
        raise type(errors[0])("\n".join(f"- {error.message} {error.hint}".rstrip() for error in errors))
    if errors:
        raise errors[0]
