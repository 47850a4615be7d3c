"""pippa from Python: a policy, the store, trainings, evaluations and datasets (docs/python.md).

What the command line does, with its settings (the environment, and ``.env`` in the current folder) and its errors: a
``PippaError`` has the message, the ``hint`` that cures it, and the ``exit_code``. What is listed here stays compatible;
everything else of ``flows`` and ``trainer`` may change. Importing it imports neither torch nor Prefect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pippa.datasets import open_dataset
from pippa.runs import evaluate, evaluate_closed_loop, resume, train
from pippa.store import Run, Store, open_store
from trainer.errors import (
    DamagedObjectError,
    DatasetError,
    DiskFullError,
    EngineError,
    OutOfMemoryError,
    PippaError,
    ServerError,
    StoreError,
    UsageError,
)
from trainer.store.closed_loop import ClosedLoop
from trainer.store.evaluation import Evaluation
from trainer.store.registry_entry import CheckpointEntry as Checkpoint
from trainer.version import version

if TYPE_CHECKING:
    from trainer.gr00t.policy import Policy

__all__ = [
    "Checkpoint",
    "ClosedLoop",
    "DamagedObjectError",
    "DatasetError",
    "DiskFullError",
    "EngineError",
    "Evaluation",
    "OutOfMemoryError",
    "PippaError",
    "Policy",
    "Run",
    "ServerError",
    "Store",
    "StoreError",
    "UsageError",
    "evaluate",
    "evaluate_closed_loop",
    "open_dataset",
    "open_store",
    "resume",
    "train",
]

__version__ = version()


def __getattr__(name: str) -> Any:
    if name == "Policy":  # it imports torch, which takes seconds
        from trainer.gr00t.policy import Policy

        return Policy
    raise AttributeError(f"module 'pippa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
