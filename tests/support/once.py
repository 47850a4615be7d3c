"""What takes long to make and is only read or copied afterwards: made once for all processes of a test session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.disk import locked


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name`` that ``make`` makes, in whichever process asks first; nobody may write into it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the session's; each worker has a folder in it
    folder = root / name
    with locked(root / f"{name}.lock"):
        if not folder.exists():
            made = factory.mktemp(name) / name
            make(made)
            made.rename(folder)
    return folder
