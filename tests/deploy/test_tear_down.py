"""deploy/machine/tear_down.py: what is lost with a machine, told from what Docker and the stack say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "machine" / "tear_down.py"
DOCKER = """#!/bin/sh
echo "docker $*" >> "$CALLS"
case "$*" in
"ps "*) echo "$RUNNING" ;;
*"pippa checkpoints list --json") echo "$REGISTERED" ;;
*"find /var/lib/pippa/runs"*) echo "$WAITING" ;;
"system df"*) echo '[{"Name": "pippa_minio", "Size": "12.3GB"}, {"Name": "another", "Size": "1GB"}]' ;;
esac
"""
BEST = {"name": "blog-20261122-171005-ac13/8000", "bytes": 7_100_000_000, "aliases": ["best", "kitchen"]}
LATE = "/var/lib/pippa/runs/blog-20261122-171005-ac13/output/pending-uploads/checkpoint-9000"


@pytest.fixture
def tear_down(tmp_path):
    """Runs the script in its own checkout, with stubs of docker and systemctl."""
    (tmp_path / "bin").mkdir()
    for name, text in {"docker": DOCKER, "systemctl": '#!/bin/sh\necho "systemctl $*" >> "$CALLS"\n'}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    script = tmp_path / "pippa/deploy/machine/tear_down.py"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT.read_text())

    def run(*arguments, registered=(), waiting="", running="", dotenv=""):
        (tmp_path / "pippa/.env").write_text(dotenv)
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PIPPA_")},
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "REGISTERED": json.dumps(list(registered)),
            "WAITING": waiting,
            "RUNNING": running,
        }
        command = [sys.executable, "-I", script, *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, done.stdout, (tmp_path / "calls").read_text()

    return run


def test_checkpoints_in_the_machines_own_store_are_named_with_their_aliases(tear_down):
    code, said, _ = tear_down(registered=[BEST])
    assert code == 1
    assert "blog-20261122-171005-ac13/8000" in said and "7.1 GB" in said and "= best, kitchen" in said
    assert "pippa_minio" in said and "12.3GB" in said and "another" not in said


def test_with_a_bucket_only_what_waits_for_it_is_lost(tear_down):
    bucket = "PIPPA_S3_ENDPOINT=https://s3.example\nPIPPA_S3_BUCKET='arms'\n"
    code, said, _ = tear_down(registered=[BEST], dotenv=bucket)
    assert code == 0 and "Only on this machine:\n  nothing" in said
    assert "https://s3.example, bucket arms: 1 checkpoints, at most 7.1 GB" in said
    code, said, _ = tear_down(registered=[BEST], dotenv=bucket, waiting=LATE)
    assert code == 1 and "1 checkpoints wait for https://s3.example" in said
    assert "blog-20261122-171005-ac13/9000" in said


def test_it_changes_nothing_unless_told_and_then_trainings_save_first(tear_down):
    _, said, calls = tear_down(running="pippa-blog-1")
    assert "Still running: pippa-blog-1" in said and " stop" not in calls and "systemctl" not in calls
    _, said, calls = tear_down("--stop", running="pippa-blog-1")
    done = [line for line in calls.splitlines() if " stop" in line or "list --json" in line or "systemctl" in line]
    assert [line.split()[0:4] for line in done[-4:]] == [
        ["docker", "compose", "stop", "worker"],
        ["docker", "stop", "--time", "300"],
        ["docker", "compose", "run", "--rm"],
        ["systemctl", "disable", "--now", "pippa"],
    ]
    assert "Delete the machine" in said
