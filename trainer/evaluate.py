"""``trainer evaluate``: open-loop evaluation of a checkpoint folder, or of a registered one (``--checkpoint``)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainer.events import Emitter


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, emit an ``evaluation`` event, write the report. Returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if any(each.partition("=")[0] == "--checkpoint" for each in given):
        from trainer.evaluation.registered import main as registered

        return registered(given)
    from trainer.config.flags import parse
    from trainer.evaluation.folder import EvaluateOptions, evaluate

    evaluate(parse(EvaluateOptions, given, "trainer evaluate"), Emitter())
    return 0


if __name__ == "__main__":
    from trainer.cli import main as trainer

    trainer(["evaluate", *sys.argv[1:]])
