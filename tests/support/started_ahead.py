"""A command that can be started ahead: it says what it was to do, and with ``stay`` lives on for a minute."""

from __future__ import annotations

import json
import os
import sys
import time

from trainer.runner.ahead import AHEAD, order


def prepare(environ) -> None:
    environ.setdefault("CUDA_VISIBLE_DEVICES", "0")


def main() -> None:
    arguments = sys.argv[1:]
    waited = arguments == [AHEAD]
    if waited:
        arguments = order("colorsys", [__file__], prepare)
    sys.stderr.write("a word for people\n")
    said = {
        "pid": os.getpid(),
        "waited": waited,
        "loaded": "colorsys" in sys.modules,
        "arguments": arguments,
        "argv": sys.argv[1:],
        "environ": dict(os.environ),
        "stdin": sys.stdin.read(),
    }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
    if "stay" in sys.argv:
        sys.stdout.flush()
        time.sleep(60)
