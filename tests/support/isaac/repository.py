"""A small git repository in Isaac-GR00T's place: its command lines and output layout, without torch or a GPU.

``upstream`` stands in for N1.5's branch; with ``upstream_n17`` over it, for N1.7's code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from trainer.config.run_spec import Engine

HERE = Path(__file__).parent
BRANCH = "n1.5-release"
CONDA = HERE / "conda"
"""Build context of an image that stands in for one with conda."""


def make_sources(path: Path, engine: Engine) -> Path:
    """The files for ``engine`` in folder ``path``, which is returned."""
    for source in ("upstream", *(["upstream_n17"] if engine == "isaac-n17" else [])):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(HERE / source, path, ignore=ignored, dirs_exist_ok=True)
    if engine == "isaac-n17":
        shutil.rmtree(path / "scripts")
    return path


def make_repository(path: Path, engine: Engine) -> str:
    """Make it in folder ``path``, on upstream's branch of N1.5; returns the commit."""
    make_sources(path, engine)
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
