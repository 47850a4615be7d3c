"""``pippa serve``: a registered checkpoint, from the command to the end by a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from flows import cli
from tests.support.registered import tiny_checkpoint
from tests.support.waiting import PATIENCE
from trainer.errors import ExitCode, UsageError


def test_a_registered_checkpoint_is_served_until_sigterm(object_store, s3_settings, tmp_path):
    tiny_checkpoint(object_store, tmp_path)
    environ = {**os.environ, **s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli", "serve", "smoke/latest", "--port", "0", "--http-port", "0"]
    server = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said: list[str] = []
        for line in server.stderr:
            said.append(line)
            if line.startswith("Serving"):
                break
        address = re.search(r"http://127\.0\.0\.1:\d+", said[-1] if said else "")
        assert address, "".join(said)
        with urllib.request.urlopen(f"{address[0]}/health", timeout=PATIENCE) as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == ExitCode.TERMINATED
        assert "Traceback" not in server.stderr.read()
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("flags", "token", "words"),
    [
        (["--host", "0.0.0.0"], "", "listens beyond this machine"),
        (["--host", "0.0.0.0"], "short", "shorter than"),
        (["--port", "99999"], "", "--port is 99999"),
        (["--port", "7000", "--http-port", "7000"], "", "are both 7000"),
        (["--host", "no.such.host.invalid"], "", "no address"),
    ],
)
def test_what_can_not_be_served_is_said_before_anything_starts(monkeypatch, flags, token, words):
    monkeypatch.setenv("PIPPA_SERVE_TOKEN", token)
    with pytest.raises(UsageError, match=re.escape(words)):
        cli.dispatch(["serve", "smoke/best", *flags])
