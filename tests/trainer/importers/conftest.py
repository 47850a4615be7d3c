from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.data.synthetic import make_synthetic
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store


@pytest.fixture(scope="module")
def store(buckets) -> Iterator[ObjectStore]:
    with buckets.one() as settings:
        yield S3Store(settings)


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "pick place", episodes=1)


@pytest.fixture(scope="session")
def git_lfs() -> None:
    """git and git-lfs, which CI must have."""
    if missing := [tool for tool in ("git", "git-lfs") if not shutil.which(tool)]:
        reason = f"{' and '.join(missing)} not installed: apt-get install git git-lfs"
        if os.environ.get("CI") or os.environ.get("PIPPA_REQUIRE_DOCKER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
