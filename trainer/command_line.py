"""The one parser behind every command line of ``pippa`` and ``trainer``: argparse, taught upstream's forms.

The standard library has what upstream's command line needs (several values after one flag, ``--flag`` / ``--no-flag``),
starts in milliseconds, and lets every complaint be a ``UsageError`` with its cure. A flag may be written with
underscores, ``--batch_size``, and is never guessed from its beginning.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from trainer.errors import UsageError

WIDEST = 100
"""Columns of a help text. Longer lines are hard to read."""

_NUMBER = re.compile(r"-\.?\d")
_TRUE = ("true", "yes", "on", "1")
_ABBREVIATED = {
    "lr": "learning-rate",
    "bs": "batch-size",
    "wd": "weight-decay",
    "steps": "max-steps",
}
"""What other trainers call these."""
_EXPECTED = re.compile(r"argument (?P<flag>[^/,: ]+).*: expected .*argument")


class Help(argparse.HelpFormatter):
    """argparse's help, which breaks lines between words only and leaves indented lines as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, WIDEST) - 2)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrapped(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.split("\n\n")
        return "\n\n".join(
            part if "\n  " in part else "\n".join(f"{indent}{line}" for line in _wrapped(part, width)) for part in parts
        )

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        shown = ", ".join(action.option_strings)
        values = "" if isinstance(action, Switch) else self._format_args(action, self._get_default_metavar(action))
        return f"{shown} {values}".rstrip()

    def _get_default_metavar(self, action: argparse.Action) -> str:
        return self._get_default_metavar_for_optional(action)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return "" if isinstance(action, Switch) else super()._format_args(action, default_metavar)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ``UsageError``.

    One that ``collects`` continues after what it can't use and leaves its complaints in ``problems`` of the namespace:
    everything wrong with a command can be reported at once.
    """

    def __init__(self, *arguments: Any, collects: bool = False, **options: Any) -> None:
        options.setdefault("formatter_class", Help)
        options.setdefault("allow_abbrev", False)
        super().__init__(*arguments, **options)
        self._positionals.title = "arguments"
        # argparse's own pattern does not know 1e-4.
        self._negative_number_matcher = _NUMBER
        self._collects = collects
        self._problems: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse ``args``; what no flag takes is a complaint."""
        given = None if args is None else [_dashed(word) for word in args]
        found, rest = super().parse_known_args(given, namespace)
        if self._subparsers is None and rest:
            # Here and not at the root of the commands, which does not know this command's flags.
            self._complain_of(rest)
            rest = []
        if self._collects:
            found.problems = self._problems
        return found, rest

    def complain(self, problem: str) -> None:
        """Raise ``problem``, or keep it for later."""
        if not self._collects:
            raise UsageError(problem, f"`{self.prog} --help` explains every flag.")
        self._problems.append(problem)

    def error(self, message: str) -> NoReturn:
        """Raise ``message`` as a ``UsageError``, with those that were collected before it."""
        message = _EXPECTED.sub(r"\g<flag> needs a value.", message)
        raise UsageError("\n".join([*self._problems, f"{self.prog}: {message}"]), self.format_usage().strip())

    def flags(self) -> list[str]:
        """Every flag it takes."""
        return [option for option in self._option_string_actions if option.startswith("--")]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value == [] or value in action.choices:  # [] where nothing is given of `*`
            return
        choices = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            near = difflib.get_close_matches(str(value), choices, n=1)
            raise UsageError(
                f"There is no command `{self.prog} {value}`.",
                (f"Did you mean `{self.prog} {near[0]}`? " if near else "") + f"There are {', '.join(choices)}.",
            )
        name = action.option_strings[0] if action.option_strings else action.metavar or action.dest
        self.complain(f"{name}: {not_among(str(value), choices)}")

    def _complain_of(self, rest: Sequence[str]) -> None:
        after_flag = False
        for word in rest:
            if word.startswith("-") and not _NUMBER.match(word):
                flag, after_flag = word.partition("=")[0], True
                self.complain(f"There is no flag {flag}. {did_you_mean_flag(flag, self.flags())}".rstrip())
            elif not after_flag:  # else it may be the unknown flag's value
                self.complain(f"{word!r} belongs to no flag: flags come as `--name value`.")


class Switch(argparse.Action):
    """``--flag`` and ``--no-flag``. A value after either is refused with the right form."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        both = [each for option in option_strings for each in (option, f"--no-{option[2:]}")]
        super().__init__(both, dest, nargs="?", **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        """Set the flag on or off."""
        flag = self.option_strings[0]
        if values is not None:
            on = str(values).lower() in _TRUE
            parser.complain(
                f"{flag} takes no value (got {values!r}). To switch it {'on' if on else 'off'}, write "
                f"{flag if on else self.option_strings[1]}"
            )
        setattr(namespace, self.dest, option == flag)


class Once(argparse.Action):
    """A flag that takes several values at once, and is refused a second time: the first values would be dropped."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        """Keep the values."""
        if hasattr(namespace, self.dest):
            parser.complain(f"{option} is given twice. Name all after one: {option} A B")
        setattr(namespace, self.dest, values)


class EachSwitch(Switch):
    """``--flag`` and ``--no-flag``, either or both: a list of what is given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        """Add on or off."""
        given = getattr(namespace, self.dest, [])
        super().__call__(parser, namespace, values, option)
        setattr(namespace, self.dest, [*given, getattr(namespace, self.dest)])


def did_you_mean_flag(flag: str, flags: Iterable[str]) -> str:
    """The flag that ``flag`` may stand for: what ``--lr`` and the like abbreviate, one spelled alike, or those with the
    word in them (``--workers``). Empty where none is near.
    """
    names, word = [each[2:] for each in flags if each != "--help"], flag.lstrip("-").replace("_", "-").lower()
    near = (
        [name for name in names if name == _ABBREVIATED.get(word)]
        or difflib.get_close_matches(word, names, n=1)
        or [name for name in names if word in name.split("-") and not name.startswith("no-")]
    )
    return f"Did you mean {' or '.join(f'--{name}' for name in near[:3])}?" if near else ""


def not_among(value: str, choices: Sequence[str]) -> str:
    """The complaint that ``value`` is none of ``choices``, with the nearest."""
    near = difflib.get_close_matches(value, choices, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    return f"{value!r} is not one of {', '.join(choices)}.{guess}"


def _dashed(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value
