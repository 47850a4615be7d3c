"""What a doctor finds: one line for each part of a machine, and the cure where one is needed."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

from trainer.errors import ExitCode, PippaError

State = Literal["ok", "note", "problem"]
_WIDTH = 16
_MARKS: dict[State, str] = {"ok": "✓", "note": "!", "problem": "✗"}


@dataclass(frozen=True)
class Finding:
    """One part of the machine."""

    part: str
    says: str
    state: State = "ok"
    """``note``: a training is possible, and may want this. ``problem``: no training before it is cured."""
    cure: str = ""
    exit_code: int = ExitCode.USAGE
    """What doctor ends with where this is the first problem."""


Look = Callable[[], Finding]


def problem(part: str, error: PippaError) -> Finding:
    """``error`` as a finding."""
    return Finding(part, error.message, "problem", error.hint, int(error.exit_code))


def look(checks: Sequence[Look]) -> list[Finding]:
    """The findings of ``checks``, in their order; they wait for networks and daemons side by side."""
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        return list(pool.map(lambda check: check(), checks))


def tell(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Print ``findings`` and return the exit code: 0, or that of the first problem."""
    if as_json:
        found = [{name: value for name, value in asdict(each).items() if name != "exit_code"} for each in findings]
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    else:
        for each in findings:
            _write(f"{_MARKS[each.state]} {each.part:<{_WIDTH - 2}} ", each.says)
            if each.cure:
                _write(" " * (_WIDTH + 1), each.cure)
    return next((each.exit_code for each in findings if each.state == "problem"), ExitCode.DONE)


def _write(before: str, text: str) -> None:
    """``text`` after ``before``, in a terminal wrapped between words; elsewhere a line can be searched."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else len(before) + len(text) + 1
    indent = " " * len(before)
    lines = textwrap.wrap(
        before + text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    sys.stdout.write("\n".join(lines) + "\n")
