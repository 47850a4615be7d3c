"""``pippa data init`` in a terminal, where it asks, and in a pipe that closes early."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.so101 import make_so101

PIPPA = [sys.executable, "-m", "flows.cli"]


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """A dataset that lacks both files."""
    return make_so101(tmp_path / "kitchen", ("left", "right"), episodes=1)


def environ(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PIPPA_HOME": str(tmp_path / "home"), "TERM": "dumb", "PYTHONPATH": str(Path.cwd())}


def at_a_terminal(tmp_path: Path, answer: str) -> str:
    """What a person sees who types ``answer`` once asked."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PIPPA, "data", "init", "kitchen"],
        cwd=tmp_path,
        env=environ(tmp_path),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen, end = b"", time.monotonic() + 120
        while time.monotonic() < end:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            seen += part
            if answer and b"Write this?" in seen:
                os.write(ours, f"{answer}\n".encode())
                answer = ""
        assert process.wait(timeout=120) == 0
    os.close(ours)
    return seen.decode()


@pytest.mark.parametrize(("answer", "written"), [("y", True), ("n", False)])
def test_a_person_is_asked_once_and_decides(kitchen: Path, tmp_path: Path, answer: str, written: bool) -> None:
    seen = at_a_terminal(tmp_path, answer)
    assert seen.count("Write this?") == 1 and '"single_arm"' in seen
    assert seen.index('"single_arm"') < seen.index("Write this?")
    for file in (kitchen / "meta/modality.json", tmp_path / "kitchen.toml"):
        assert file.exists() == written
    assert ("Written." in seen) == written and ("Nothing is written." in seen) != written


def test_with_yes_the_files_are_written_whoever_reads_the_words(kitchen: Path, tmp_path: Path) -> None:
    command = f"{shlex.join([*PIPPA, 'data', 'init', 'kitchen', '--yes'])} | head -n 0"
    subprocess.run(command, shell=True, cwd=tmp_path, env=environ(tmp_path), check=True, stdin=subprocess.DEVNULL)
    assert (kitchen / "meta/modality.json").exists() and (tmp_path / "kitchen.toml").exists()
