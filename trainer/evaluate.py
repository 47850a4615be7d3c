"""``trainer evaluate``: open-loop evaluation of a checkpoint folder, of registered ones (``--checkpoint``), or of those
of a run (``--run``); with ``--closed-loop`` registered ones act in the synthetic scene.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainer.events import Emitter
from trainer.runner.parent_watch import die_with_parent


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, emit an ``evaluation`` event, write the report. Returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    flags = {each.partition("=")[0] for each in given}
    die_with_parent()
    if "--closed-loop" in flags:
        from trainer.evaluation.closed_loop import main as closed_loop

        return closed_loop(given)
    if "--checkpoint" in flags:
        from trainer.evaluation.registered import main as registered

        return registered(given)
    if "--run" in flags:
        from trainer.evaluation.run import main as run

        return run(given)
    from trainer.config.flags import parse
    from trainer.evaluation.folder import EvaluateOptions, evaluate

    evaluate(parse(EvaluateOptions, given, "trainer evaluate"), Emitter())
    return 0


if __name__ == "__main__":
    from trainer.cli import main as trainer

    trainer(["evaluate", *sys.argv[1:]])
