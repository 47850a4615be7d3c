"""A small git repository in Isaac-GR00T's place: its command lines and output layout, without torch or a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BRANCH = "n1.5-release"
CONDA = HERE / "conda"
"""Build context of an image that stands in for one with conda."""


def make_repository(path: Path) -> str:
    """Make it in folder ``path``, on upstream's branch; returns the commit."""
    shutil.copytree(HERE / "upstream", path, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    demo = path / "demo_data" / "robot_sim.PickNPlace"
    demo.mkdir(parents=True)
    (demo / "pointer.mp4").write_text("version https://git-lfs.github.com/spec/v1\n")
    identity = {
        **os.environ,
        "GIT_AUTHOR_NAME": "pippa",
        "GIT_AUTHOR_EMAIL": "pippa@example.org",
        "GIT_COMMITTER_NAME": "pippa",
        "GIT_COMMITTER_EMAIL": "pippa@example.org",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(path), *arguments]
        return subprocess.run(command, env=identity, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet", f"--initial-branch={BRANCH}")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Stands in for upstream")
    return git("rev-parse", "HEAD")
