"""The flow ``gc``: what nothing refers to any more leaves the object store, as by ``pippa checkpoints gc``."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from flows.views.terminal import size
from trainer.store.gc import Collected, collect
from trainer.store.stores import open_store


@flow(name="gc", persist_result=False)
def gc(keep: int | None = None, delete: bool = False) -> str:
    """Find what nothing refers to any more, and delete it if asked to.

    Checkpoints with an alias, those of running runs, and the newest of each run always stay.

    Args:
        keep: Also drop all but this many of the newest checkpoints of each run.
        delete: Delete it. Without this nothing is touched, and the report says what would be.
    """
    found = collect(open_store(), keep=keep, dry_run=not delete)
    summary = f"{found.blobs} files, {size(found.bytes_freed)} {'freed' if delete else 'would be freed'}"
    get_run_logger().info(summary)
    create_markdown_artifact(to_markdown(found, summary), key="gc", description=summary)
    return summary


def to_markdown(found: Collected, summary: str) -> str:
    """The report as a page."""
    lines = ["# Garbage collection", "", f"**{summary}**", ""]
    lines += [f"- checkpoint `{name}`" for name in found.checkpoints]
    lines += [f"- {ref.kind} `{ref}`" for ref in found.snapshots]
    return "\n".join(lines) + "\n"
