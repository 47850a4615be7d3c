"""A command that can be started ahead: it says what it was to do, and lives until its stdin, if any, would end."""

from __future__ import annotations

import fcntl
import json
import os
import sys

from trainer.ahead import AHEAD, order


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


def lock(path: str) -> int:
    """The descriptor of a lock that is held until it is closed everywhere."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


if __name__ == "__main__":
    main()
    if "stay" in sys.argv:
        sys.stdout.flush()
        import time

        time.sleep(60)
