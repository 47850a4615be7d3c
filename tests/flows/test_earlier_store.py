"""A home with the store of an earlier pippa."""

from __future__ import annotations

from pathlib import Path

from flows import earlier_store
from flows.commands import nothing_stored


def test_it_is_named_once_with_the_commands_that_copy_it(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path))
    monkeypatch.delenv("PIPPA_S3_ENDPOINT", raising=False)
    assert nothing_stored() and capsys.readouterr().err == ""
    (tmp_path / "s3" / "data").mkdir(parents=True)
    assert nothing_stored() and nothing_stored()
    said = capsys.readouterr().err
    assert said.count("note:") == 1 and f"-dir={tmp_path}/s3/data" in said and f"{tmp_path}/store/" in said
    earlier_store.note(tmp_path / "elsewhere", {})
    earlier_store.note(tmp_path, {"PIPPA_S3_ENDPOINT": "http://minio:9000"})
    assert capsys.readouterr().err == ""
