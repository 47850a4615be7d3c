"""``pippa``: the command of the host side. Each command's module is imported only when the command is called."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from trainer.config.settings import pippa_home
from trainer.disk import as_disk_full
from trainer.errors import ExitCode, PippaError, UsageError
from trainer.output import masked_output, silence_lost_output
from trainer.stop_signals import stop_signals
from trainer.version import version


@dataclass(frozen=True)
class Command:
    """A command as it is typed after ``pippa``, and the function ``module:function(argv) -> exit code`` behind it."""

    words: str
    arguments: str
    summary: str
    target: str


COMMANDS: tuple[Command, ...] = (
    Command("train", "PRESET [--flag …]", "train a preset, watch it, keep its checkpoints", "train:train"),
    Command("evaluate", "NAME …", "which checkpoint, and did it learn the task?", "evaluate:evaluate"),
    Command("presets", "", "the presets", "presets:overview"),
    Command("presets compare", "A B …", "what differs between presets, and why", "presets:compare"),
    Command("data list", "", "datasets in the object store", "data:show_all"),
    Command("data check", "PATH --data-config X", "would training on this dataset fail?", "data:check"),
    Command("data add", "NAME", "a dataset of the hub, git or S3 into the object store", "data:add"),
    Command("data push", "PATH [--name NAME]", "a dataset folder into the object store", "data:push"),
    Command("data pull", "NAME FOLDER", "a dataset out of the object store", "data:pull"),
    Command("models list", "", "base models in the object store", "models:show_all"),
    Command("models add", "NAME", "a base model of the hub, git, S3 or a folder into the object store", "models:add"),
    Command("checkpoints list", "[RUN]", "registered checkpoints", "checkpoints:show_all"),
    Command("checkpoints show", "NAME", "one checkpoint: lineage and metrics", "checkpoints:show"),
    Command("checkpoints pull", "NAME FOLDER", "a checkpoint's files, verified", "checkpoints:pull"),
    Command("checkpoints verify", "NAME", "read and hash every file in the store", "checkpoints:verify"),
    Command("checkpoints alias", "ALIAS NAME", "a name of your own for a checkpoint", "checkpoints:alias"),
    Command("checkpoints gc", "[--delete]", "what nothing refers to any more", "checkpoints:gc"),
    Command("store check", "[--repair]", "what is damaged in the object store, and repairing it", "store:check"),
    Command("store create", "", "the bucket that PIPPA_S3_BUCKET names", "store:create"),
    Command("server", "", "the Prefect server of a team, with the web UI", "server:server"),
    Command("worker", "", "run here what is started or scheduled in Prefect", "worker:worker"),
    Command("runs list", "", "runs and how they ended", "runs:show_all"),
    Command("runs show", "RUN", "the report of a run", "runs:show"),
    Command("runs pull", "RUN FOLDER", "a run's plots, log, events and W&B files", "runs:pull"),
    Command("runs sync", "RUN", "upload to W&B what was recorded offline", "runs:sync"),
    Command("runs resume", "RUN", "continue a run from its last checkpoint", "runs:resume"),
    Command("runs follow", "RUN", "watch a run on another machine", "runs:follow"),
    Command("runs cancel", "RUN", "end a run on another machine", "runs:cancel"),
)
_BY_WORDS = {command.words: command for command in COMMANDS}
# `pippa data` means `pippa data list`.
_GROUPS = {command.words.split()[0] for command in COMMANDS if " " in command.words}


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are ``UsageError`` like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise ``message`` as a ``UsageError`` with the command's usage."""
        raise UsageError(f"{self.prog}: {message}", self.format_usage().strip())


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``pippa`` with ``argv``; returns the exit code (``trainer.errors.ExitCode``).

    A ``PippaError`` becomes its message and hint on stderr; a traceback comes only with ``PIPPA_DEBUG=1``.
    """
    for number in stop_signals():
        if number != signal.SIGINT:
            signal.signal(number, _terminated)
    try:
        from flows.settings import load_environment

        load_environment()
    except PippaError as error:
        return _complain(error.message, error.hint, error.exit_code)
    with masked_output(os.environ):
        return _answered(list(sys.argv[1:] if argv is None else argv))


def _answered(argv: list[str]) -> int:
    """``dispatch``, with every error told on stderr."""
    try:
        return int(dispatch(argv))
    except PippaError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except KeyboardInterrupt:
        return _complain("Stopped by Ctrl-C.", "", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # `pippa runs list | head`: nobody reads on. Without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EIO and silence_lost_output():
            return ExitCode.HANGUP  # the terminal is gone, and its signal is still to come
        if (full := as_disk_full(error, pippa_home())) is not None:
            return _complain(full.message, full.hint, full.exit_code)
        if os.environ.get("PIPPA_DEBUG") == "1":
            raise
        return _complain(
            f"A defect of pippa: {type(error).__name__}: {error}", "PIPPA_DEBUG=1 shows where.", ExitCode.FAILED
        )


def dispatch(argv: list[str]) -> int:
    """Call the command that ``argv`` names. Raises ``UsageError`` with the nearest one for an unknown command."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return ExitCode.DONE
    if argv[0] in ("-V", "--version", "version"):
        sys.stdout.write(f"pippa {version()}\n")
        return ExitCode.DONE
    word, rest = argv[0], argv[1:]
    if word in _GROUPS:
        if rest[:1] in (["-h"], ["--help"]):
            sys.stdout.write(_listing([command for command in COMMANDS if command.words.split()[0] == word]))
            return ExitCode.DONE
        if rest and not rest[0].startswith("-"):
            word, rest = f"{word} {rest[0]}", rest[1:]
        elif word not in _BY_WORDS:
            word = f"{word} list"
    command = _BY_WORDS.get(word) or _unknown(word)
    module, _, function = command.target.partition(":")
    return getattr(importlib.import_module(f"flows.commands.{module}"), function)(rest)


def overview() -> str:
    """What ``pippa`` alone prints."""
    return (
        "pippa fine-tunes NVIDIA GR00T N1.5 on your demonstrations, and keeps every result.\n\n"
        f"{_listing(COMMANDS)}\n"
        "Try it, with no GPU and no account:  pippa train smoke\n"
        "See what a training would do:        pippa train blog --dry-run\n"
    )


def _listing(commands: Sequence[Command]) -> str:
    calls = [f"pippa {command.words} {command.arguments}".rstrip() for command in commands]
    width = max(map(len, calls))
    return "".join(f"  {call:<{width}}   {command.summary}\n" for call, command in zip(calls, commands, strict=True))


def _unknown(words: str) -> NoReturn:
    from trainer.config.presets import PRESETS

    near = [f"train {words}"] if words in PRESETS else difflib.get_close_matches(words, [*_BY_WORDS, *_GROUPS], n=1)
    hint = f"Did you mean `pippa {near[0]}`? " if near else ""
    raise UsageError(f"There is no command `pippa {words}`.", f"{hint}`pippa` alone lists the commands.")


def _complain(message: str, hint: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n" + (f"{hint}\n" if hint else ""))
    if os.environ.get("PIPPA_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    return code


def _terminated(number: int, _frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP unwind the process, so that no server and no trainer is left."""
    silence_lost_output()
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
