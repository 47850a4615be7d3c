"""What can be started and scheduled in Prefect: one deployment per preset, and the flows around training.

``pippa worker`` registers this table. Schedules are written here or made in Prefect's UI, and either way switched on
and off in the UI: a restart of the worker keeps what was made or switched there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from flows.launch import LauncherName
from flows.orchestration.parameters import described
from trainer.config.presets import DEFAULT, Preset, all_presets
from trainer.config.run_spec import Engine

POOL = "pippa"
TAG = "pippa"
"""On every deployment that pippa registers, and on nothing else."""

QUEUES: dict[str, str] = {
    "training": "Trainings. One runs per GPU; the others wait for it and say so.",
    "data": "Datasets and base models on their way into the object store, evaluations, garbage collection.",
}


@dataclass(frozen=True)
class Deployment:
    """One entry of Prefect's list: ``<flow>/<name>``."""

    entrypoint: str
    """Module and function of the flow, installed wherever a worker is."""
    name: str
    queue: str
    description: str
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    schema: Callable[[dict[str, Any]], dict[str, Any]] = lambda schema: schema
    """Makes the parameters' schema this deployment's own."""


@dataclass(frozen=True)
class Timetable:
    """When a deployment starts by itself."""

    deployment: str
    """``<flow>/<name>``."""
    slug: str
    """Names it among the deployment's schedules."""
    when: CronSchedule | IntervalSchedule
    parameters: dict[str, Any] = field(default_factory=dict)
    active: bool = False
    """Whether it starts switched on. Later the switch in the UI counts."""


SCHEDULES: tuple[Timetable, ...] = (
    Timetable("gc/gc", "weekly", CronSchedule(cron="0 4 * * 0", timezone="UTC"), {"delete": True}),
    Timetable("train/smoke", "nightly", CronSchedule(cron="0 3 * * *", timezone="UTC")),
)


def deployments(launcher: LauncherName, engine: Engine) -> list[Deployment]:
    """Every deployment; ``launcher`` and ``engine`` are what their forms propose."""
    where = {"launcher": launcher, "engine": engine}
    return [
        *(_training(preset, where) for preset in (*all_presets().values(), DEFAULT)),
        Deployment(
            entrypoint="flows.orchestration.import_flows.pull_dataset",
            name="pull-dataset",
            queue="data",
            description="A dataset into the object store, checked. `pippa data list` lists what is there.",
            parameters={
                "name": "youliangtan/so101-table-cleanup",
                "data_config": "so100_dualcam",
                "launcher": launcher,
            },
        ),
        Deployment(
            entrypoint="flows.orchestration.import_flows.pull_base_model",
            name="pull-base-model",
            queue="data",
            description="A base model into the object store, so that the next machine does not ask the hub.",
            parameters={"name": "nvidia/GR00T-N1.5-3B", "launcher": launcher},
        ),
        Deployment(
            entrypoint="flows.orchestration.evaluate.evaluate",
            name="evaluate",
            queue="training",
            description="Open-loop evaluation of a registered checkpoint, its metrics and plots kept with it.",
            parameters={"checkpoint": "latest", "launcher": launcher},
        ),
        Deployment(
            entrypoint="flows.orchestration.gc.gc",
            name="gc",
            queue="data",
            description="What nothing refers to any more, out of the object store; as `pippa checkpoints gc`.",
            parameters={"delete": False},
        ),
    ]


def _training(preset: Preset, where: dict[str, Any]) -> Deployment:
    return Deployment(
        entrypoint="flows.orchestration.train.train",
        name=preset.name,
        queue="training",
        description=f"{preset.summary}\n\n"
        f"From a terminal: `pippa train {preset.name}`, here on the worker with `--launcher remote`. "
        f"What the preset sets, and why: `pippa presets compare {preset.name}`.",
        tags=preset.wandb_tags,
        parameters={"preset": preset.name, "overrides": {}, **where},
        schema=lambda schema: described(schema, preset),
    )


def names(table: Iterable[Deployment]) -> list[str]:
    """``<flow>/<name>`` of each."""
    return [f"{flow_name(each)}/{each.name}" for each in table]


def flow_name(deployment: Deployment) -> str:
    """The name of the flow behind ``deployment``."""
    return deployment.entrypoint.rpartition(".")[2].replace("_", "-")
