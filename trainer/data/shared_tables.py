"""The tables of LeRobot v3, each with the rows of many episodes: whose rows are where, and the columns of one episode.

A table is read once and kept while its episodes are read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from trainer.data.locations import RowRange, TableRows
from trainer.data.meta_files import AGAIN_V3
from trainer.data.tables import MAX_SHARED_ROWS, column_names, read_columns, read_table, to_arrays
from trainer.errors import DatasetError

MAX_RUNS = 1000
"""Places where the rows of one episode lie."""
_KEPT_BYTES = 256 << 20

_Kept = tuple[Path, tuple[str, ...]]


class Listed(NamedTuple):
    """What the metadata says of an episode's rows."""

    episode: int
    rows: int
    file: Path | None
    """Where they should be."""


class SharedTables:
    """The tables of one dataset. May be used from several threads."""

    def __init__(self, root: Path, listed: Sequence[Listed]) -> None:
        """The tables lie in the folder ``root``."""
        self._root = root
        self._listed = {each.episode: each for each in listed}
        self._found: dict[int, TableRows | DatasetError] | None = None
        self._owners: dict[Path, Owners | DatasetError] = {}
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._kept: OrderedDict[_Kept, pa.Table | DatasetError] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def rows(self, episode: int) -> TableRows:
        """Where the rows of ``episode`` lie. Raises ``DatasetError`` where they are not all there."""
        with self._lock:
            if self._found is None:
                self._found = self._find_all()
            found = self._found[episode]
        if isinstance(found, DatasetError):
            raise DatasetError(found.message, found.hint)
        return found

    def unlisted(self) -> set[int]:
        """Episodes that have rows, and that ``meta/episodes`` does not list."""
        listed = np.array(list(self._listed))
        with self._lock:
            everywhere = [self._owners_of(file) for file in self._files()]
        others = [np.setdiff1d(each.owners, listed) for each in everywhere if isinstance(each, Owners)]
        return {int(owner) for each in others for owner in each if np.isfinite(owner)}

    def columns(self, episode: int, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Columns of ``episode``, as ``read_columns`` gives those of a whole table. Raises ``DatasetError``."""
        rows = self.rows(episode)
        part = self._slice(rows, tuple(names), tuple(optional))
        return to_arrays(part, names, str(rows))

    def table(self, episode: int) -> pa.Table:
        """The rows of ``episode``, all columns. Raises ``DatasetError``."""
        rows = self.rows(episode)
        return self._slice(rows, tuple(column_names(rows.file)), ())

    def _slice(self, rows: TableRows, names: tuple[str, ...], optional: tuple[str, ...]) -> pa.Table:
        parts = [
            self._read(run.file, names, optional).slice(run.first, None if run.end is None else run.end - run.first)
            for run in rows.runs
        ]
        if len(parts) == 1:
            return parts[0]
        # In another file an optional column may be missing.
        shared = [name for name in parts[0].column_names if all(name in part.column_names for part in parts)]
        try:
            return pa.concat_tables([part.select(shared) for part in parts], promote_options="permissive")
        except pa.ArrowException as error:
            raise DatasetError(f"{rows}: its rows lie in tables of different columns ({error}).", AGAIN_V3) from error

    def _read(self, file: Path, names: tuple[str, ...], optional: tuple[str, ...]) -> pa.Table:
        """Columns of a whole table. What is wrong with it is found out once, however many episodes ask."""
        key = (file, (*names, "", *optional))
        with self._lock:
            if key not in self._kept:
                try:
                    self._kept[key] = read_table(file, names, optional, most_rows=MAX_SHARED_ROWS, cure=AGAIN_V3)
                except DatasetError as error:
                    self._kept[key] = error
                while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > _KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            found = self._kept[key]
        if isinstance(found, DatasetError):
            raise DatasetError(found.message, found.hint)
        return found

    def _find_all(self) -> dict[int, TableRows | DatasetError]:
        """The rows of every episode, in the file that is named or else wherever they say that they are its own."""
        by_file = sorted(self._listed.values(), key=lambda each: str(each.file))
        found = {each.episode: self._rows_in([each.file] if each.file else [], each) for each in by_file}
        lost = [episode for episode, rows in found.items() if isinstance(rows, DatasetError)]
        for episode, files in self._holders(lost).items():
            found[episode] = self._rows_in(files, self._listed[episode])
        return found

    def _holders(self, episodes: Sequence[int]) -> dict[int, list[Path]]:
        """The tables that have rows of these ``episodes``."""
        holders: dict[int, list[Path]] = defaultdict(list)
        for file in self._files() if episodes else ():
            owners = self._owners_of(file)
            if isinstance(owners, Owners):
                for number in np.intersect1d(owners.owners, np.array(episodes)).tolist():
                    holders[int(number)].append(file)
        return holders

    def _files(self) -> list[Path]:
        """Every table there is, but for those of the metadata."""
        found = sorted(self._root.rglob("*.parquet"))
        return [file for file in found if file.relative_to(self._root).parts[0] != "meta"]

    def _rows_in(self, files: Sequence[Path], listed: Listed) -> TableRows | DatasetError:
        runs: list[RowRange] = []
        for file in files:
            owners = self._owners_of(file)
            if isinstance(owners, DatasetError):
                return owners
            runs += [RowRange(file, first, end) for first, end in owners.runs(listed.episode)]
        count = sum((run.end or 0) - run.first for run in runs)
        where = ", ".join(map(str, files)) or str(self._root)
        if count != listed.rows:
            return DatasetError(
                f"{where}: {count} rows of episode {listed.episode}; meta/episodes says {listed.rows}.", AGAIN_V3
            )
        if len(runs) > MAX_RUNS:
            return DatasetError(
                f"{where}: the rows of episode {listed.episode} lie in {len(runs):,} places.",
                "Sort the table by episode_index.",
            )
        return TableRows(tuple(runs), listed.episode)

    def _owners_of(self, file: Path) -> Owners | DatasetError:
        if file not in self._owners:
            try:
                self._owners[file] = Owners(file)
            except DatasetError as error:
                self._owners[file] = error
        return self._owners[file]


class Owners:
    """Whose rows a table has, in runs."""

    def __init__(self, file: Path) -> None:
        """Raises ``DatasetError``."""
        name = "episode_index"
        if name not in column_names(file, AGAIN_V3):
            raise DatasetError(f"{file}: no column {name}.", AGAIN_V3)
        values = read_columns(file, [name], most_rows=MAX_SHARED_ROWS, cure=AGAIN_V3)[name].reshape(-1)
        if not np.issubdtype(values.dtype, np.number):
            raise DatasetError(f"{file}: {name} holds no numbers.", AGAIN_V3)
        firsts = np.flatnonzero(np.diff(values, prepend=np.nan)) if len(values) else np.zeros(0, np.int64)
        ends = np.append(firsts[1:], len(values))
        # By owner, so that an episode's runs are found without looking at all others.
        order = np.argsort(values[firsts], kind="stable")
        self.owners = values[firsts][order]
        self._firsts, self._ends = firsts[order], ends[order]

    def runs(self, episode: int) -> list[tuple[int, int]]:
        """Where the rows of ``episode`` begin and end."""
        low, high = np.searchsorted(self.owners, episode), np.searchsorted(self.owners, episode, side="right")
        return list(zip(self._firsts[low:high].tolist(), self._ends[low:high].tolist(), strict=True))


def _bytes(kept: pa.Table | DatasetError) -> int:
    return kept.nbytes if isinstance(kept, pa.Table) else 0
