"""The run spec: everything that decides what a run trains, written to the store before the training starts.

``pippa train`` resolves a preset into a spec, ``trainer run`` carries it out; a restarted run reads the same spec.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.config.generations import AnyConfig

Engine = Literal["native", "isaac-uv", "isaac-conda", "isaac-n17"]
SnapshotKind = Literal["dataset", "model", "checkpoint"]

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]*-\d{8}-\d{6}-[0-9a-f]{4}")


def new_run_id(name: str, now: datetime | None = None) -> str:
    """``<name>-<UTC yyyymmdd-hhmmss>-<4 hex>``; the name is the user's, or else the preset's."""
    return f"{name}-{(now or datetime.now(UTC)):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


class SnapshotRef(BaseModel):
    """Names one immutable snapshot in the object store."""

    model_config = ConfigDict(frozen=True)

    kind: SnapshotKind
    name: str
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    def __str__(self) -> str:
        return f"{self.name}@{self.digest[:12]}"


class WandbSpec(BaseModel):
    """The W&B run this run reports to. Holds no key."""

    model_config = ConfigDict(frozen=True)

    entity: str
    """Empty for the key's default entity."""
    project: str
    name: str
    run_id: str
    group: str
    tags: list[str] = []
    site: str = "https://wandb.ai"
    """Address of W&B's pages."""

    @property
    def path(self) -> str:
        """``entity/project/run id``; what is unknown is left out."""
        return "/".join(part for part in (self.entity, self.project, self.run_id) if part)

    @property
    def url(self) -> str | None:
        """The page of the run; None where the entity is not known."""
        return f"{self.site}/{self.entity}/{self.project}/runs/{self.run_id}" if self.entity else None


class RunSpec(BaseModel):
    """One run, resolved. Contains no secret: it is stored, shown and given to W&B as it is."""

    model_config = ConfigDict(frozen=True)

    run_id: Annotated[str, Field(pattern=rf"^{RUN_ID.pattern}$")]
    preset: str
    engine: Engine = "native"
    config: AnyConfig
    provenance: dict[str, Literal["default", "preset", "flag"]]
    """Where the value of each field of ``config`` came from."""
    datasets: Annotated[list[SnapshotRef], Field(min_length=1)]
    """One per entry of ``config.dataset_path``, in its order."""
    base_model: SnapshotRef
    wandb: WandbSpec
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    git_sha: str | None = None
    """Commit of pippa's own checkout or image."""
    image: str | None = None
    """Digest of the training image; None for a process."""

    @model_validator(mode="after")
    def _a_snapshot_for_each(self) -> Self:
        if len(self.datasets) != (named := len(self.config.dataset_path)):
            raise ValueError(f"datasets: {len(self.datasets)} snapshots, and config.dataset_path names {named}")
        return self

    @property
    def name(self) -> str:
        """What its id begins with: ``--name``, or else the preset."""
        return self.run_id.rsplit("-", 3)[0]

    @property
    def wandb_run(self) -> str | None:
        """Address or path of its W&B run; None where it reports elsewhere."""
        return self.wandb.url or self.wandb.path if self.config.report_to == "wandb" else None
