"""One machine's part in a training on several: meet the others, start the ranks here, and say how it ended."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.config.finetune_config import RUN_FIELDS, FinetuneConfig
from trainer.config.flags import flag
from trainer.errors import ExitCode, PippaError
from trainer.events import Event, PhaseEvent
from trainer.runner.nodes import Node
from trainer.training.devices import run_under_torchrun
from trainer.training.rendezvous import Rendezvous, interface
from trainer.version import version

_OWN = {"dataset_path", "data_config", "base_model_path", "output_dir", "resume", "modality_config_path", *RUN_FIELDS}
"""What may differ between machines: folders, and what is the run's around the engine."""


def train_together(
    config: FinetuneConfig, argv: Sequence[str], node: Node, newest: Path | None, emit: Callable[[Event], None]
) -> int:
    """Train on all nodes; returns the exit code. ``newest`` is the checkpoint of node 0 to continue from.

    Nodes other than 0 write into a folder of their own, which is removed: the output folder may be a shared one.
    Raises ``EngineError`` when another node was lost or failed, ``UsageError`` when the nodes don't fit together.
    """

    def say(line: str) -> None:
        sys.stderr.write(f"node {node.rank}: {line}\n")
        if node.rank == 0:
            emit(PhaseEvent(phase="load", message=line))

    folder = Path(config.output_dir).absolute()
    if node.rank:
        folder /= f".node-{node.rank}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    terms = {
        **{flag(name): str(value) for name, value in config.model_dump(exclude=_OWN).items()},
        "pippa": version(),
    }
    meeting = Rendezvous(node, terms, say)
    if name := interface(node):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    # From here on, since a checkpoint may take minutes to get here: a node that only receives it is not lost.
    with meeting.watched() as watch:
        try:
            resume_from = meeting.same_checkpoint(newest, folder)
        except PippaError as error:
            watch.ended(error.exit_code)
            raise
        mine = [flag("output_dir"), str(folder), flag("resume", on=resume_from is not None)]
        code: int = ExitCode.FAILED
        if watch.all_ready():
            code = run_under_torchrun(config.num_gpus, [*argv, *(mine if node.rank else [])], node, watch.stopped.set)
        if code != ExitCode.DONE and (cause := watch.ended(code)):
            raise cause
        watch.over.set()
    if node.rank:
        shutil.rmtree(folder, ignore_errors=True)
    return code
