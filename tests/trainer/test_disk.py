from __future__ import annotations

import shutil

import pytest

from trainer.disk import locked, require_space
from trainer.errors import DiskFullError


def test_a_lock_has_one_holder(tmp_path):
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
        pass
    with locked(tmp_path / "lock", wait=False):
        pass


def test_what_is_there_already_needs_no_space(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    (tmp_path / "part").write_bytes(bytes(500))
    require_space(tmp_path, 1500, "data", "go elsewhere")
    with pytest.raises(DiskFullError, match="data needs") as error:
        require_space(tmp_path, 1501, "data", "go elsewhere")
    assert error.value.hint == "Free some space, or go elsewhere."
