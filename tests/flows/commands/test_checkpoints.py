"""``pippa checkpoints show``: lineage, from a real store."""

from __future__ import annotations

import pytest

from flows import cli
from trainer.config.argv import resolve
from trainer.config.run_spec import SnapshotRef
from trainer.runner.run_spec_builder import new_spec
from trainer.store import registry, snapshots
from trainer.store.manifest import manifest_key


@pytest.fixture
def base_model(object_store, s3_settings, monkeypatch, tmp_path) -> SnapshotRef:
    """The base model of the one checkpoint in the store."""
    for name, value in {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home"), "COLUMNS": "250"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    origin = {"hub": "owner/groot", "license": "A License of Somebody"}
    model = snapshots.push(object_store, tmp_path / "model", "model", "owner/groot", origin=origin).ref
    dataset = SnapshotRef(kind="dataset", name="synthetic.PickNPlace", digest="d" * 64)
    spec = new_spec(*resolve("smoke", []), [dataset], model)
    pushed = snapshots.push(object_store, tmp_path / "model", "checkpoint", spec.run_id).ref
    registry.register(object_store, registry.CheckpointEntry(run_id=spec.run_id, step=10, snapshot=pushed, spec=spec))
    return model


def test_a_checkpoint_shows_the_licence_of_its_base_model(base_model, object_store, capsys):
    assert cli.main(["checkpoints", "show", "latest"]) == 0
    assert f"{base_model.name}@{base_model.digest}, A License of Somebody" in capsys.readouterr().out


def test_a_checkpoint_is_shown_though_its_base_model_is_damaged(base_model, object_store, capsys):
    object_store.delete(manifest_key(base_model))
    assert cli.main(["checkpoints", "show", "latest"]) == 0
    shown = capsys.readouterr().out
    assert f"{base_model.name}@{base_model.digest} " in shown and "License" not in shown
