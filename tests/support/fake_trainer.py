"""A trainer that only talks: events on stdout, as ``FAKE_TRAINER`` (JSON) says.

``lines`` are written first (``{"event": …}`` or text); ``exit`` is the exit code, or ``-9`` to be killed; ``wait``
waits for SIGTERM, answered with ``last_words`` and exit code 143; ``deaf`` ignores SIGTERM; ``child`` starts one
that outlives it; ``count`` is a file that counts the starts, and ``heal_after`` how many of them do all that: the
next ends well at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

OPTIONS = json.loads(os.environ.get("FAKE_TRAINER", "{}"))


def say(lines: list[object]) -> None:
    for line in lines:
        sys.stdout.write((json.dumps(line) if isinstance(line, dict) else str(line)) + "\n")
    sys.stdout.flush()


def stop(*_: object) -> None:
    say(OPTIONS.get("last_words", []))
    sys.exit(143)


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if OPTIONS.get("deaf") else stop)
    if OPTIONS.get("child"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(OPTIONS["child"]).write_text(str(child.pid))
    if OPTIONS.get("count"):
        count = Path(OPTIONS["count"])
        starts = int(count.read_text()) + 1 if count.exists() else 1
        count.write_text(str(starts))
        if "heal_after" in OPTIONS and starts > OPTIONS["heal_after"]:
            return
    sys.stderr.write(f"a word for people about {sys.argv[1:]}\n")
    say(OPTIONS.get("lines", []))
    while OPTIONS.get("wait"):
        time.sleep(0.05)
    code = OPTIONS.get("exit", 0)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
