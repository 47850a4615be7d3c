"""What comes into a W&B run after its training: the figures of the evaluation, and the page."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trainer.evaluation.verdict import Verdict
from trainer.events import Emitter, WarningEvent
from trainer.store.evaluation import Evaluation

if TYPE_CHECKING:
    from wandb import Run


def add_to_wandb(evaluations: Mapping[int, Evaluation], judged: Verdict | None, emit: Emitter) -> None:
    """Log the figures over the checkpoints, and put those of the best one and the verdict into the summary.

    Only where the run reports to W&B: its variables are set then (``trainer.runner.wandb_setup``). Never raises.
    """
    if not evaluations or not os.environ.get("WANDB_RUN_ID") or os.environ.get("WANDB_MODE") == "disabled":
        return
    try:
        with _continued() as run:
            # Apart from the training's steps, which are over: W&B drops what comes out of order.
            run.define_metric("evaluation/step")
            run.define_metric("evaluation/*", step_metric="evaluation/step")
            for step in sorted(evaluations):
                figures = {f"evaluation/{name}": value for name, value in evaluations[step].metrics().items()}
                run.log({"evaluation/step": step, **figures})
            if judged is not None:
                run.summary.update(
                    {"verdict": judged.level, "verdict/summary": judged.summary, "verdict/take": judged.take}
                )
    except Exception as error:  # whatever W&B raises, the evaluation is in the registry
        first = str(error).partition("\n")[0]
        emit(WarningEvent(message=f"W&B did not take the evaluation ({type(error).__name__}: {first})."))


def add_page(page: str) -> None:
    """Log the HTML page of the run, under ``report``. Raises what W&B raises."""
    import wandb

    with _continued() as run:
        run.log({"report": wandb.Html(page, inject=False)})


@contextmanager
def _continued() -> Generator[Run]:
    """The W&B run that the environment names, once more."""
    import wandb

    settings = wandb.Settings(init_timeout=30, console="off", x_disable_stats=True)
    run = wandb.init(id=os.environ["WANDB_RUN_ID"], dir=os.environ.get("WANDB_DIR"), resume="allow", settings=settings)
    try:
        yield run
    finally:
        run.finish()
        wandb.teardown()  # its service still writes
