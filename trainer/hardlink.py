"""Files that several folders share."""

from __future__ import annotations

import os
import shutil
from os import PathLike
from pathlib import Path


def link_or_copy(source: str | PathLike[str], target: str | PathLike[str]) -> None:
    """Make ``target`` a hard link to ``source``: no bytes and no time; a copy where the file system has no links.

    Raises ``FileNotFoundError`` when ``source`` is gone, and leaves ``target`` as it was then.
    """
    Path(source).stat()
    # Copying over a link would change every other file that shares it.
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)
