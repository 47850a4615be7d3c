"""``trainer run`` with a folder for its object store: ``python -m bench.drill.runner STORE PRESET [--flag …]``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.drill.folder_store import FolderStore
from trainer.cli import main as trainer
from trainer.runner import run


def main() -> None:
    """Run, and exit as ``trainer run`` does."""
    store = FolderStore(Path(sys.argv[1]))
    os.environ.update(store.settings.to_environ())
    run.ObjectStore = lambda _: store  # pyrefly: ignore
    trainer(["run", *sys.argv[2:]])


if __name__ == "__main__":
    main()
