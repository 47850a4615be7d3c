"""The real command lines of ``pippa`` and ``trainer``, stopped when they have parsed: is a command one that exists?

``python -m tests.support.parsing`` reads commands from stdin, a JSON list of lists of words, and writes a list of the
same length: what is wrong with each, or null. It is a separate process, in an empty folder, since ``trainer run``
handles signals from its first line on. Nothing is executed: wherever arguments are parsed, ``Parsed`` is raised then.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]


class Parsed(BaseException):
    """The command line was understood. No ``except Exception`` on its way takes it."""


def problems(commands: Sequence[Sequence[str]]) -> list[str | None]:
    """What ``pippa`` and ``trainer`` say against each of ``commands``; None where they would begin to work."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PIPPA_HOME": f"{folder}/home"}
        # Of an engine with its own command no process is started ahead.
        settings |= {"PIPPA_FINETUNE_COMMAND": "no-engine", "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.parsing"],
            cwd=folder,
            env=settings,
            input=json.dumps(commands),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not list(Path(folder).iterdir()), "a command was executed"
    return json.loads(done.stdout)


def _problem(words: Sequence[str]) -> str | None:
    from flows.cli import main as pippa
    from trainer.cli import main as trainer

    program, *argv = words
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = {"pippa": pippa, "trainer": trainer}[program](argv)
    except Parsed:
        return None
    except SystemExit as exit_:
        code = exit_.code
    if code in (0, None) and {"-h", "--help", "-V", "--version"} & set(argv):
        return None
    return said.getvalue().strip() or "it does not parse its arguments"


def _stop_when_parsed(function: Callable[..., Any]) -> Callable[..., NoReturn]:
    def parse(*arguments: Any, **options: Any) -> NoReturn:
        function(*arguments, **options)
        raise Parsed

    return parse


def _stop_everything() -> None:
    from trainer.command_line import Parser
    from trainer.config import argv, flags
    from trainer.store import stores

    parse_args = Parser.parse_args

    def parse(parser: Parser, *arguments: Any, **options: Any) -> Any:
        found = parse_args(parser, *arguments, **options)
        # A command that collects its problems has others still to find, when it validates its values.
        if hasattr(found, "problems"):
            if found.problems:
                parser.error("\n".join(found.problems))
            return found
        raise Parsed

    Parser.parse_args = parse  # pyrefly: ignore[bad-assignment]
    argv._validated = _stop_when_parsed(argv._validated)
    flags.validated = _stop_when_parsed(flags.validated)
    # `trainer run --run-id` has nothing to validate, and asks the store next.
    stores.open_store = _stop_when_parsed(lambda *_: None)


if __name__ == "__main__":
    _stop_everything()
    json.dump([_problem(words) for words in json.load(sys.stdin)], sys.stdout)
