from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.hub import COMMIT, hub
from trainer import importers
from trainer.errors import DatasetError, UsageError
from trainer.store import snapshots


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "arm-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_folder_is_pushed_under_its_name(store, synthetic, tmp_path, monkeypatch):
    ref = importers.dataset(store, str(synthetic), tmp_path, data_config="fourier_gr1_arms_only")
    assert ref.name == "pick-place" and ref == snapshots.latest(store, "dataset", "pick-place")
    monkeypatch.chdir(synthetic.parent.parent)
    relative = f"{synthetic.parent.name}/{synthetic.name}"
    assert importers.dataset(store, relative, tmp_path) == ref  # as upstream's docs write it
    assert importers.dataset(store, f"./{relative}", tmp_path, store_name="other/name").name == "other/name"


def test_a_name_is_the_latest_or_the_one_with_that_digest(store, model, tmp_path):
    first = importers.base_model(store, str(model), tmp_path)
    (model / "config.json").write_text('{"a": 1}')
    second = importers.base_model(store, str(model), tmp_path)
    assert importers.base_model(store, "arm-model", tmp_path) == second != first
    assert importers.base_model(store, f"arm-model@{first.digest[:12]}", tmp_path) == first
    assert importers.base_model(store, str(second).replace(second.digest[:12], second.digest), tmp_path) == second


def test_a_dataset_that_does_not_fit_is_refused_before_it_is_pushed(store, synthetic, tmp_path):
    broken = shutil.copytree(synthetic, tmp_path / "broken")
    with pytest.raises(DatasetError) as error:
        importers.dataset(store, str(broken), tmp_path, data_config="so100_dualcam")
    assert "front" in str(error.value) and "fourier_gr1_arms_only" in str(error.value)
    assert snapshots.latest(store, "dataset", "broken") is None


def test_the_synthetic_dataset_is_made_once(store, tmp_path, monkeypatch):
    made = []
    ref = importers.dataset(store, importers.SYNTHETIC, tmp_path, log=made.append)
    again = importers.dataset(store, importers.SYNTHETIC, tmp_path, log=made.append)
    assert ref == again and ref.name == importers.SYNTHETIC
    assert [line for line in made if line.startswith("Making")] == ["Making synthetic.PickNPlace."]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("arm-modle", "Did you mean arm-model?"),
        ("tin", "Did you mean tiny?"),
        ("arm-model@" + "0" * 12, "There is no base model"),
        ("/absent/folder", "There is no folder"),
        ("./absent", "There is no folder"),
        ("two words", "There is no base model"),
    ],
)
def test_a_name_that_leads_nowhere(store, model, tmp_path, name, says):
    importers.base_model(store, str(model), tmp_path)
    with pytest.raises(UsageError) as error:
        importers.base_model(store, name, tmp_path)
    assert says in str(error.value)


def test_a_folder_without_a_model_is_refused(store, synthetic, tmp_path):
    with pytest.raises(UsageError, match=r"config\.json"):
        importers.base_model(store, str(synthetic), tmp_path)


def test_a_folder_named_without_a_path_is_told_how(store, model, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"write \./here"):
        importers.base_model(store, "here", tmp_path)


@pytest.fixture
def at_hub(point_at_hub):
    files = {"config.json": b"{}", "weights/model.safetensors": b"w" * 1000, ".gitattributes": b"*"}
    with hub({"models/owner/arm": files}) as (address, requests):
        point_at_hub(address)
        yield requests


def test_a_hub_id_is_downloaded_once_with_its_commit(store, at_hub, tmp_path):
    ref = importers.base_model(store, "owner/arm", tmp_path / "work")
    (info,) = [info for info in snapshots.list_snapshots(store, "model") if info.ref == ref]
    assert ref.name == "owner/arm" and info.origin == {"hub": "owner/arm", "revision": COMMIT} and info.files == 3
    asked = len(at_hub)
    assert importers.base_model(store, "owner/arm", tmp_path / "work") == ref
    assert importers.base_model(store, f"owner/arm@{COMMIT}", tmp_path / "work") == ref
    assert len(at_hub) == asked  # the store has it
    assert not list((tmp_path / "work").iterdir())


def test_a_hub_id_that_is_not_there(store, at_hub, tmp_path):
    with pytest.raises(UsageError, match="HF_TOKEN"):
        importers.base_model(store, "owner/amr", tmp_path)


def test_without_network_the_way_round_is_told(store, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError) as error:
        importers.dataset(store, "owner/table", tmp_path)
    assert "Connection refused" in error.value.message
    assert "hf download owner/table" in error.value.hint and "pippa data push" in error.value.hint


def test_what_the_store_has_is_found_without_bringing_it(store, model, tmp_path):
    assert importers.find(store, "model", str(model)) is None  # a folder may have changed
    ref = importers.base_model(store, str(model), tmp_path, store_name="found-model")
    assert importers.find(store, "model", "found-model") == ref == importers.find(store, "model", str(ref))
    assert importers.find(store, "dataset", "found-model") is None and importers.find(store, "model", "../x") is None


def test_something_generated_counts_only_when_this_version_made_it(store, tmp_path, monkeypatch):
    ref = importers.dataset(store, importers.SYNTHETIC, tmp_path)
    assert importers.find(store, "dataset", importers.SYNTHETIC) == ref
    monkeypatch.setattr(importers.generated, "generator_sha256", lambda _: "0" * 64)
    assert importers.find(store, "dataset", importers.SYNTHETIC) is None
