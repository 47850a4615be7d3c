"""Where a trainer runs. Each launcher starts ``trainer …`` somewhere and hands back the same view of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import flag
from trainer.config.run_spec import Engine
from trainer.events import Event

LauncherName = Literal["process", "docker"]
Role = Literal["training", "prepare", "evaluate", "log-page"]
Log = Callable[[str], None]

GPU_VARIABLE: dict[LauncherName, str] = {"process": "CUDA_VISIBLE_DEVICES", "docker": "PIPPA_GPUS"}
"""What tells a launcher which GPUs a job may use."""


class Job(BaseModel):
    """One ``trainer …`` command that is to run somewhere."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=200)]
    """Names the job everywhere and forever: starting a job of this name again re-attaches to the one that runs.

    For a training it is the run id.
    """
    role: Role
    arguments: list[str]
    """Of ``trainer``. Never a secret: everybody on the machine can read them."""
    engine: Engine = "native"
    gpus: bool = False
    """Whether it computes on the GPUs that ``PIPPA_GPUS`` allows."""
    labels: dict[str, str] = {}
    """Where the launcher has labels: these besides its own, such as ``run-id`` and ``preset``."""


class TrainerHandle(Protocol):
    """A trainer that was started."""

    log: Path
    """What the trainer wrote for people."""
    outlives: bool
    """Whether it continues when this process is killed."""
    lost: str
    """Why it was lost, where that is known better than from the exit code."""

    def next_event(self, timeout: float) -> Event | None:
        """The next event, or None when ``timeout`` seconds passed without one, or none will follow."""
        ...

    @property
    def exit_code(self) -> int | None:
        """The exit code (negative: killed by that signal) once the trainer has ended and every event was read."""
        ...

    def terminate(self) -> None:
        """Ask it to save, upload and end."""
        ...

    def kill(self) -> None:
        """End it now, with everything it started. Safe to call when it has ended."""
        ...


class Launcher(Protocol):
    """One place to run trainers."""

    def require(self, config: FinetuneConfig, engine: Engine) -> None:
        """Raise ``UsageError`` for a training that this place has not the devices or the engine for."""
        ...

    def image(self, engine: Engine, log: Log = lambda _: None) -> str | None:
        """What identifies the image that jobs of ``engine`` run in, built or pulled if need be; None without images."""
        ...

    def knows(self, name: str) -> bool:
        """Whether there is something of the job ``name`` here that ``start`` re-attaches to."""
        ...

    def start(self, job: Job, environ: Mapping[str, str]) -> TrainerHandle:
        """Start ``job``, or re-attach to it. ``environ`` names the store and everything else the trainer reads."""
        ...


def needed_secrets(job: Job) -> list[str]:
    """The variables with the secrets that ``job`` needs; no other secret is handed to it."""
    sources = ["PIPPA_SOURCE_S3_ACCESS_KEY", "PIPPA_SOURCE_S3_SECRET_KEY"]
    return ["PIPPA_S3_ACCESS_KEY", "PIPPA_S3_SECRET_KEY", "HF_TOKEN"] + (
        sources if job.role == "prepare" else ["WANDB_API_KEY"]
    )


def training_job(
    run_id: str,
    preset: str,
    engine: Engine = "native",
    labels: Mapping[str, str] | None = None,
    devices: Mapping[str, int] | None = None,
) -> Job:
    """The job that trains the run whose spec is in the store, on other ``devices`` than it names where given."""
    return Job(
        name=run_id,
        role="training",
        arguments=["run", "--run-id", run_id, *(word for each in (devices or {}).items() for word in _flag(*each))],
        engine=engine,
        gpus=True,
        labels={"run-id": run_id, "preset": preset, **(labels or {})},
    )


def page_job(run_id: str) -> Job:
    """The job that logs the page of a run to W&B, from where the run was."""
    return Job(
        name=f"{run_id}-page", role="log-page", arguments=["log-page", "--run", run_id], labels={"run-id": run_id}
    )


def _flag(name: str, value: int) -> tuple[str, ...]:
    return (flag(name, on=value),) if isinstance(value, bool) else (flag(name), str(value))


def log_file(home: Path, job: Job) -> Path:
    """Where the words of ``job`` for people are kept; its folder exists afterwards."""
    file = home / "runs" / job.name / "trainer.log" if job.role == "training" else home / "logs" / f"{job.name}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
