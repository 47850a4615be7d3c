"""Where a dataset's own words may lead: into its folder, to plain files."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection
from pathlib import Path
from string import Formatter

from trainer.errors import DatasetError

LONGEST = 500
"""Characters of a template or a path within a dataset."""
_WIDTH = re.compile(r"(0?[1-9]\d?d?)?")
"""How numbers are written: ``03d`` or ``06d``; at most 99 digits wide."""


def checked_template(template: str, fields: Collection[str], required: str) -> str:
    """``template``, whose placeholders are ``fields``, numbers of some width or texts, and which leads nowhere else.

    ``str.format`` would do much more: look into objects, or write a number a gigabyte wide. Raises ``ValueError``.
    """
    if len(template) > LONGEST:
        raise ValueError(f"{template[:40]!r}… is longer than {LONGEST} characters")
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r} can't be filled in ({error})") from None
    for _, field, width, conversion in parsed:
        if field is not None and (field not in fields or conversion or not _WIDTH.fullmatch(width or "")):
            raise ValueError(
                f"{template!r} has the placeholder {{{field}{f'!{conversion}' if conversion else ''}"
                f"{f':{width}' if width else ''}}}; there are {', '.join(fields)}, with a width such as :03d"
            )
    if required not in [field for _, field, _, _ in parsed]:
        raise ValueError(f"{template!r} names the same file for all: it lacks {{{required}}}")
    filled(template, **{field: "x" if field == "video_key" else 0 for field in fields})
    return template


def filled(template: str, **values: int | str) -> str:
    """A template of ``checked_template`` with ``values``. Raises ``ValueError`` when that leads out of the folder."""
    path = template.format(**values)
    if path.startswith("/") or ".." in path.split("/") or not path.isprintable() or len(path) > 2 * LONGEST:
        raise ValueError(f"{path[:200]!r} leads out of the dataset")
    return path


def require_file(file: Path) -> None:
    """Raise ``DatasetError`` where ``file`` is something else: to open a pipe is to wait for its other end.

    Raises ``OSError`` when there is nothing.
    """
    mode = file.stat().st_mode
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    raise DatasetError(f"{file}: {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file.", "Put the file itself there.")
