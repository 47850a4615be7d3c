"""The flows ``pull-dataset`` and ``pull-base-model``: into the object store before a training needs it."""

from __future__ import annotations

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from flows.launch import LauncherName
from flows.orchestration.artifacts import key_of, log_event
from flows.orchestration.cancellation import stop_what_runs
from flows.orchestration.ensure_imported import ensure_imported
from flows.views.terminal import size
from trainer.config.data_options import DataOptions, VideoAlignment
from trainer.config.run_spec import SnapshotRef
from trainer.data.configs import declared
from trainer.importers import Kind
from trainer.store.manifest import read_manifest
from trainer.store.stores import open_store


def _run_name() -> str:
    return str(runtime.flow_run.parameters["name"])


@flow(
    name="pull-dataset",
    flow_run_name=_run_name,
    persist_result=False,
    on_cancellation=[stop_what_runs],
    on_crashed=[stop_what_runs],
)
def pull_dataset(
    name: str,
    data_config: str | None = None,
    launcher: LauncherName = "process",
    video_alignment: VideoAlignment = "timestamp",
    recompute_statistics: bool = False,
    exclude_episodes: list[str] | None = None,
) -> SnapshotRef:
    """Import a dataset into the object store, unless it is there.

    Args:
        name: A Hugging Face id (OWNER/NAME or OWNER/NAME@REVISION), git+https://…@REF#FOLDER, s3://BUCKET/PREFIX,
            robot_sim.PickNPlace, synthetic.PickNPlace, or a name of the store.
        data_config: Check it against this data config first, so that a training can't be refused later: a built-in
            one by name, or the JSON of one of your own.
        launcher: Where the work is done.
        video_alignment: For the check, as the trainings will have it: how a row's frame is found.
        recompute_statistics: For the check, as the trainings will have it: don't use meta/stats.json.
        exclude_episodes: For the check, as the trainings will have it: episodes to leave out, such as 3 and 40-44.
    """
    options = DataOptions(
        video_alignment=video_alignment,
        recompute_statistics=recompute_statistics,
        exclude_episodes=exclude_episodes or (),
    )
    return _pull("dataset", name, launcher, data_config, options)


@flow(
    name="pull-base-model",
    flow_run_name=_run_name,
    persist_result=False,
    on_cancellation=[stop_what_runs],
    on_crashed=[stop_what_runs],
)
def pull_base_model(name: str, launcher: LauncherName = "process") -> SnapshotRef:
    """Import a base model into the object store, unless it is there.

    Args:
        name: A Hugging Face id (OWNER/NAME or OWNER/NAME@REVISION), git+https://…@REF#FOLDER, s3://BUCKET/PREFIX,
            a name of the store, or tiny.
        launcher: Where the work is done.
    """
    return _pull("model", name, launcher, None)


def _pull(
    kind: Kind,
    name: str,
    launcher: LauncherName,
    data_config: str | None,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
) -> SnapshotRef:
    log = get_run_logger()
    config = None if data_config is None else declared(data_config)
    ref = ensure_imported(
        kind,
        name,
        launcher,
        str(runtime.flow_run.id),
        data_config=config,
        options=options,
        observe=lambda event: log_event(log, event),
    )
    manifest = read_manifest(open_store(), ref)
    origin = "\n".join(f"| {title} | {value} |" for title, value in manifest.origin.items())
    create_markdown_artifact(
        f"# {ref.name}\n\n| | |\n|---|---|\n| digest | `{ref.digest}` |\n"
        f"| files | {len(manifest.files)}, {size(manifest.size)} |\n{origin}\n",
        key=key_of(f"{kind}-{ref.name}"),
        description=f"{'Dataset' if kind == 'dataset' else 'Base model'} {ref}",
    )
    return ref
