"""One registered checkpoint: its snapshot, its lineage and its evaluation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.run_spec import RUN_ID, RunSpec, SnapshotRef
from trainer.store.evaluation import Evaluation

CHECKPOINTS = "checkpoints/"
BEST_METRIC = "open_loop_mse"
"""The error that ``<preset>/best`` goes by."""


class CheckpointEntry(BaseModel):
    """One registered checkpoint."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    run_id: Annotated[str, Field(pattern=rf"^{RUN_ID.pattern}$")]
    step: Annotated[int, Field(ge=0)]
    snapshot: SnapshotRef
    spec: RunSpec
    """Lineage: preset, resolved configuration, datasets, base model, engine, code and image."""
    metrics: dict[str, float] = {}
    evaluation: Evaluation | None = None
    """What its evaluation on its own dataset found; None for one of an earlier pippa, or by Isaac-GR00T's script."""
    held_out: list[str] = []
    """Hashes of the episodes that were kept out of its training."""
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    wandb_run: str | None = None
    """Address or path of the W&B run."""
    bytes_total: int = 0
    """Size of the checkpoint's files; ``register`` fills it in."""

    @property
    def name(self) -> str:
        """``<run id>/<step>``, which ``resolve`` takes."""
        return f"{self.run_id}/{self.step}"

    @property
    def key(self) -> str:
        """Where it lies in the store."""
        return f"{CHECKPOINTS}{self.name}.json"
