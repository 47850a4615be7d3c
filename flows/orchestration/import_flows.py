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
from trainer.config.run_spec import SnapshotRef
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
def pull_dataset(name: str, data_config: str | None = None, launcher: LauncherName = "process") -> SnapshotRef:
    """Import a dataset into the object store, unless it is there.

    Args:
        name: A Hugging Face id (OWNER/NAME or OWNER/NAME@REVISION), git+https://…@REF#FOLDER, s3://BUCKET/PREFIX,
            robot_sim.PickNPlace, synthetic.PickNPlace, or a name of the store.
        data_config: Check it against this data config first, so that a training can't be refused later.
        launcher: Where the work is done.
    """
    return _pull("dataset", name, launcher, data_config)


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


def _pull(kind: Kind, name: str, launcher: LauncherName, data_config: str | None) -> SnapshotRef:
    log = get_run_logger()
    ref = ensure_imported(
        kind,
        name,
        launcher,
        str(runtime.flow_run.id),
        data_config=data_config,
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
