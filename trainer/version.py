"""Which pippa this is: its version, which pyproject.toml states, and its commit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def version() -> str:
    """The version of the installed distribution."""
    import importlib.metadata  # a tenth of a second that no other command pays

    return importlib.metadata.version("pippa")


def git_sha(environ: Mapping[str, str] = os.environ) -> str | None:
    """The commit of pippa: ``PIPPA_GIT_SHA``, else what its image was built from, else this file's checkout's."""
    if sha := environ.get("PIPPA_GIT_SHA"):
        return sha
    built_from = Path(sys.prefix) / "pippa-revision"  # docker/git-revision
    if built_from.is_file():
        return built_from.read_text().strip() or None
    here = Path(__file__).parent
    try:
        # --show-prefix is `trainer/` only where pippa itself is the checkout, not where it is installed inside one.
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD", "--show-prefix"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    sha, _, prefix = found.stdout.strip().partition("\n")
    return sha if prefix.strip() == "trainer/" else None
