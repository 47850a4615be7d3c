"""``trainer log-page --run RUN``: the page of a run, which lies in the store, in its W&B run.

``pippa`` draws the page when the trainer has ended, and W&B's files and key are where the trainer runs; so this is a
second, short job there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from trainer.command_line import Parser
from trainer.config.settings import pippa_home
from trainer.errors import ExitCode, PippaError
from trainer.evaluation.recorded import PAGE
from trainer.evaluation.to_wandb import add_page
from trainer.runner import wandb_setup
from trainer.runner.workspace import run_folder
from trainer.store import runs
from trainer.store.stores import existing_store


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Does nothing for a run without W&B, or without a page. Raises ``UsageError`` for an unknown run, and ``PippaError``
    where W&B does not take the page.
    """
    parser = Parser("trainer log-page", description="Log the page of a run, which lies in the store, to its W&B run.")
    parser.add_argument("--run", metavar="RUN", required=True, help="its id")
    run_id = parser.parse_args(argv).run
    store = existing_store("run")
    spec = runs.read_spec(store, run_id)
    folder = run_folder(pippa_home(), run_id)
    page = runs.read_file(store, run_id, PAGE)
    if page is None or spec.config.report_to != "wandb" or not (folder / "wandb").is_dir():
        return ExitCode.DONE
    variables, _ = wandb_setup.wandb_environment(spec, folder)
    if variables.get("WANDB_MODE") == "disabled":
        return ExitCode.DONE
    os.environ.update(variables)
    try:
        add_page(page.decode())
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise PippaError(f"W&B did not take the page ({type(error).__name__}: {first}).") from error
    wandb_setup.keep_unsent_runs(store, run_id, folder)
    return ExitCode.DONE
