"""What a part of the drill finds, on the disk after every row: a part that is ended keeps what it had."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.table import table

MEASURED = "measured.json"
"""All figures of a drill in one file, by part: for what reads them later (``bench.drill.goals``, a memory forecast)."""


class Report:
    """The tables, notes and figures of one part, in ``<folder>/<part>.md`` and ``<folder>/measured.json``."""

    def __init__(self, part: str, folder: Path) -> None:
        self.part = part
        self.folder = folder
        self.wrong: list[str] = []
        """What is not as it should be; a drill with any of these fails."""
        self._sections: list[str | Table] = []
        self.facts: dict[str, Any] = {}

    def table(self, title: str, columns: Sequence[str]) -> Table:
        """A new table, whose rows are kept as they come."""
        made = Table(self, title, columns)
        self._sections.append(made)
        return made

    def note(self, text: str) -> None:
        """A sentence below the tables so far."""
        self._sections.append(text)
        self.keep()

    def fact(self, name: str, value: Any) -> None:
        """A figure for ``measured.json``."""
        self.facts[name] = value
        self.keep()

    def attempt(self, measure: Callable[[], object]) -> None:
        """Call ``measure``; an exception of it stands below the tables so far, and ends nothing."""
        try:
            measure()
        except Exception as error:
            traceback.print_exc()
            self.note(in_short(error))

    def keep(self) -> None:
        """Write everything found so far."""
        text = "\n\n".join([f"## {self.part}", *(str(section) for section in self._sections)])
        (self.folder / f"{self.part}.md").write_text(text + "\n")
        self._write(self.part, self.facts)

    def about(self, **facts: Any) -> None:
        """What the drill runs on and with."""
        self._write("about", facts)

    def _write(self, name: str, facts: dict[str, Any]) -> None:
        document = {**read_measured(self.folder), name: facts}
        (self.folder / MEASURED).write_text(json.dumps(document, indent=1) + "\n")


class Table:
    """One table of a report."""

    def __init__(self, report: Report, title: str, columns: Sequence[str]) -> None:
        self._report = report
        self._title = title
        self._columns = columns
        self._rows: list[Sequence[object]] = []

    def row(self, *cells: object) -> None:
        """Keep a row."""
        self._rows.append(cells)
        self._report.keep()

    def attempt(self, names: Sequence[object], measure: Callable[[], Sequence[object]]) -> None:
        """A row of ``names`` and what ``measure`` returns; an exception of it stands in the row, and ends nothing."""
        try:
            cells = measure()
        except Exception as error:
            traceback.print_exc()
            self.row(*names, in_short(error), *[""] * (len(self._columns) - len(names) - 1))
        else:
            self.row(*names, *cells)

    def __str__(self) -> str:
        return f"**{self._title}**\n\n{table(self._columns, self._rows)}"


def in_short(error: BaseException) -> str:
    """An exception in a table's cell; its traceback is in the log."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")
    return "out of memory" if "OutOfMemoryError" in text else text[:160]


def read_measured(folder: Path) -> dict[str, Any]:
    """The figures of the drill in ``folder``, by part."""
    file = folder / MEASURED
    return json.loads(file.read_text()) if file.is_file() else {}
