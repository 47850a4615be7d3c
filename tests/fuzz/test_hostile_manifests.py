"""A store that others may write into: manifests that lead out of a folder, or want more memory than there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bounded import refuses
from trainer.config.run_spec import SnapshotRef
from trainer.errors import ExitCode

FILE = {"path": "a", "size": 1, "sha256": "0" * 64}
REF = SnapshotRef(kind="dataset", name="arm", digest="0" * 64)


def with_files(*files: dict[str, Any]) -> str:
    document = {"kind": "dataset", "name": "arm", "digest": "0" * 64, "files": [{**FILE, **each} for each in files]}
    return json.dumps(document)


# The large ones are made where they are wanted, not in each process that imports this.
HOSTILE: dict[str, str | Callable[[], str]] = {
    "out of the folder": with_files({"path": "../evil"}),
    "an absolute path": with_files({"path": "/etc/cron.d/evil"}),
    "a path ten thousand folders deep": with_files({"path": "a/" * 10_000 + "b"}),
    "a path of a megabyte": with_files({"path": "a" * (1 << 20)}),
    "a name longer than a disk takes": with_files({"path": "a" * 256}),
    "a file of exabytes": with_files({"size": 1 << 62}),
    "a file and a folder": with_files({"path": "a"}, {"path": "a-b"}, {"path": "a/b"}),
    "files without end": lambda: with_files(*[{"path": f"{number:07}"} for number in range(200_000)]),
    "deep": "[" * 200_000 + "]" * 200_000,
    "empty lists without end": lambda: '{"files": [' + "[]," * 8_000_000 + "[]]}",
    "larger than any": lambda: " " * (100 << 20) + "{}",
}


def pulled(root: Path) -> object:
    from trainer.store.folder import FolderStore
    from trainer.store.snapshots import pull

    return pull(FolderStore(root / "store"), REF, root / "here" / "arm")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused_by_name_and_writes_nothing(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"store/snapshots/dataset/arm/{REF.digest}.json"
    file.parent.mkdir(parents=True)
    content = HOSTILE[name]
    file.write_text(content() if callable(content) else content)
    refused = refuses(pulled, tmp_path)
    assert refused.exit_code == ExitCode.DAMAGED and "damaged" in refused.message, refused
    assert "arm" in refused.message
    assert not any(path.is_file() for path in tmp_path.rglob("*") if "evil" in path.name)
