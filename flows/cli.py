"""``pippa``: the command of the host side. A command's module is imported only when one of its commands is called."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from trainer.command_line import Parser
from trainer.config.settings import pippa_home
from trainer.disk import as_disk_full, unwritable
from trainer.errors import ExitCode, PippaError, UsageError
from trainer.output import masked_output, silence_lost_output
from trainer.stop_signals import stop_signals
from trainer.version import version


@dataclass(frozen=True)
class Command:
    """A command as it is typed after ``pippa``. ``flows.commands.<module>`` has its arguments and what it does."""

    words: str
    arguments: str
    summary: str
    module: str = ""
    """By default the first word."""

    @property
    def group(self) -> str:
        """Its first word where there are two; empty otherwise."""
        return self.words.rpartition(" ")[0]


COMMANDS: tuple[Command, ...] = (
    Command("train", "PRESET [--flag …]", "train a preset, keep every checkpoint"),
    Command("sweep", "PRESET --flag A B …", "train every combination of values"),
    Command("evaluate", "NAME …", "evaluate checkpoints: did they learn the task?"),
    Command("serve", "NAME", "serve a checkpoint to robots"),
    Command("report", "RUN", "write a run's page: verdict, curves, open loop"),
    Command("presets list", "", "list the presets"),
    Command("presets show", "PRESET", "show every value of a preset, and why"),
    Command("presets compare", "A B …", "show what differs between presets"),
    Command("data list", "", "list datasets in the object store"),
    Command("data init", "PATH", "propose modality.json and a data config", "data_init"),
    Command("data show", "PATH|NAME", "what it holds, and what deserves a look", "data_show"),
    Command("data check", "PATH [--data-config X]", "validate a dataset"),
    Command("data add", "NAME", "import a dataset of the hub, git or S3"),
    Command("data push", "PATH [--name NAME]", "import a dataset folder"),
    Command("data pull", "NAME FOLDER", "copy a dataset out of the object store"),
    Command("models list", "", "list base models in the object store"),
    Command("models add", "NAME", "import a base model"),
    Command("checkpoints list", "[RUN]", "list registered checkpoints"),
    Command("checkpoints show", "NAME", "show a checkpoint's lineage and metrics"),
    Command("checkpoints pull", "NAME FOLDER", "download a checkpoint, verified"),
    Command("checkpoints export", "NAME FOLDER", "write a Hugging Face folder, or push it", "checkpoints_export"),
    Command("checkpoints verify", "NAME", "hash a checkpoint's files in the store"),
    Command("checkpoints alias", "ALIAS NAME", "give a checkpoint a name"),
    Command("checkpoints gc", "[--delete]", "remove what nothing refers to"),
    Command("store check", "[--repair]", "find what is damaged in the store"),
    Command("store create", "", "create the bucket PIPPA_S3_BUCKET names"),
    Command("runs list", "", "list runs and how they ended"),
    Command("runs show", "RUN", "show a run's report"),
    Command("runs compare", "A B …", "show what differs between runs"),
    Command("runs pull", "RUN FOLDER", "download a run's plots, log and events"),
    Command("runs sync", "RUN", "upload an offline run to W&B"),
    Command("runs resume", "RUN", "continue a run from its last checkpoint"),
    Command("runs follow", "RUN", "watch a run on another machine"),
    Command("runs cancel", "RUN", "stop a run on another machine"),
    Command("server", "", "run a team's Prefect server and its UI"),
    Command("worker", "", "run what is started or scheduled in Prefect"),
    Command("doctor", "[PRESET]", "check this machine before a training"),
    Command("completion", "bash", "print completions for bash, zsh or tcsh"),
)
_BY_WORDS = {command.words: command for command in COMMANDS}
_GROUPS = dict.fromkeys(command.group for command in COMMANDS if command.group)
GROUP_TITLES = {
    "presets": "named, complete sets of training arguments",
    "data": "datasets in the object store",
    "models": "base models in the object store",
    "checkpoints": "the checkpoint registry",
    "store": "the object store itself",
    "runs": "trainings, and how they went",
}


class _Tree:
    """The ``flows.commands.Add`` of the parser."""

    def __init__(self, root: Any) -> None:
        self._parents = {"": root}

    def group(self, word: str, parent: Any) -> None:
        """Let commands that begin with ``word`` come under ``parent``."""
        self._parents[word] = parent

    def __call__(
        self, words: str, run: Callable[[argparse.Namespace], int], *, description: str = "", **options: Any
    ) -> Parser:
        """The parser of the command ``words``."""
        command = _BY_WORDS[words]
        parser = self._parents[command.group].add_parser(
            words.rpartition(" ")[2],
            prog=f"pippa {words}",
            help=command.summary,
            description=description or f"{command.summary[:1].upper()}{command.summary[1:]}.",
            **options,
        )
        parser.set_defaults(call=run)
        return parser


class _Root(Parser):
    """The parser of ``pippa`` itself."""

    def format_help(self) -> str:
        return overview()

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            _unknown(str(value))


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
    with masked_output(os.environ) as output:
        return output.finished(_answered(list(sys.argv[1:] if argv is None else argv)))


def _answered(argv: list[str]) -> int:
    """``dispatch``, with every error reported on stderr."""
    try:
        return int(dispatch(argv))
    except PippaError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except SystemExit as end:
        if end.code:
            raise
        return ExitCode.DONE  # argparse's way of ending after --help and --version
    except KeyboardInterrupt:
        return _complain("Stopped by Ctrl-C.", "", ExitCode.INTERRUPTED)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EIO and silence_lost_output():
            return ExitCode.HANGUP  # the terminal is gone, and its signal is still to come
        if os.environ.get("PIPPA_DEBUG") == "1":
            raise
        if known := _known(error):
            return _complain(known.message, known.hint, known.exit_code)
        return _complain(
            f"A defect of pippa: {type(error).__name__}: {error}", "PIPPA_DEBUG=1 shows where.", ExitCode.FAILED
        )


def dispatch(argv: list[str]) -> int:
    """Call the command that ``argv`` names. Raises ``UsageError`` with the nearest one for an unknown command."""
    words = _complete(argv)
    arguments = build_parser(words).parse_args(words)
    return arguments.call(arguments)


def build_parser(words: Sequence[str] | None = None) -> Parser:
    """The parser of all commands, with the arguments of those that begin as ``words`` do; None gives all of them."""
    root = _Root("pippa")
    root.add_argument("-V", "--version", action="version", version=f"pippa {version()}")
    first = root.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    add = _Tree(first)
    names = dict.fromkeys(command.words.split()[0] for command in COMMANDS)
    for name in names:
        wanted = words is None or list(words[:1]) == [name]
        if name in _GROUPS:
            group = first.add_parser(name, help=GROUP_TITLES.get(name), description=f"{name}: {GROUP_TITLES.get(name)}")
            if wanted:
                add.group(name, group.add_subparsers(title="commands", metavar="COMMAND", required=True))
        elif not wanted:
            first.add_parser(name)
        if wanted:
            modules = dict.fromkeys(command.module or name for command in COMMANDS if command.words.split()[0] == name)
            for module in modules:
                importlib.import_module(f"flows.commands.{module}").commands(add, list(words or ())[1:])
    return root


def _complete(argv: list[str]) -> list[str]:
    """``argv`` with what may be left out: `pippa data` means `pippa data list`."""
    if not argv or argv[0] == "help":
        return ["--help"]
    if argv[0] == "version":
        return ["--version"]
    if argv[0] in _GROUPS and (len(argv) == 1 or (argv[1].startswith("-") and argv[1] not in ("-h", "--help"))):
        return [argv[0], "list", *argv[1:]]
    return argv


def overview() -> str:
    """What ``pippa`` alone prints."""
    calls = [f"{command.words} {command.arguments}".rstrip() for command in COMMANDS]
    width = max(map(len, calls))
    lines = [f"  {call:<{width}}  {command.summary}\n" for call, command in zip(calls, COMMANDS, strict=True)]
    return (
        "usage: pippa COMMAND …\n\n"
        "pippa fine-tunes NVIDIA GR00T on your demonstrations, and keeps every result.\n\n"
        f"{''.join(lines)}\n"
        "`pippa COMMAND --help` explains a command, `pippa train PRESET --help` every flag.\n\n"
        "Try it, with no GPU and no account:  pippa train smoke\n"
        "See what a training would do:        pippa train blog --dry-run\n"
    )


def _unknown(word: str) -> NoReturn:
    names = dict.fromkeys(command.words.split()[0] for command in COMMANDS)
    from trainer.config.presets import PRESETS

    near = [f"train {word}"] if word in PRESETS else difflib.get_close_matches(word, names, n=1)
    near = near or [command.words for command in COMMANDS if command.words.split()[-1] == word]
    hint = f"Did you mean `pippa {near[0]}`? " if near else ""
    raise UsageError(f"There is no command `pippa {word}`.", f"{hint}`pippa` alone lists the commands.")


def _known(error: Exception) -> PippaError | None:
    """``error`` as one that a user can cure: a full disk, a path that can't be written."""
    return as_disk_full(error, pippa_home()) or unwritable(error, pippa_home())


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
