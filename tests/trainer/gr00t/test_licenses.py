"""The licence of a base model's weights: said when it is imported, kept with it, and in NOTICE."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trainer import importers
from trainer.generation import GENERATIONS, generation_in
from trainer.importers.models import licensed
from trainer.store import snapshots

NOTICE = " ".join((Path(__file__).resolve().parents[3] / "NOTICE").read_text().split())


@pytest.mark.parametrize("generation", GENERATIONS, ids=str)
def test_the_notice_names_each(generation):
    license_ = generation.license
    assert f"{generation} (" in NOTICE and f"{license_.name} {license_.url}" in NOTICE
    assert str(generation) in str(license_)


def test_a_model_that_says_no_type_has_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert licensed(tmp_path, print) == {}


def test_it_is_said_once_and_kept_with_the_model(object_store, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "my-groot")
    said: list[str] = []
    ref = importers.base_model(object_store, str(folder), tmp_path / "work", log=said.append)
    generation = generation_in(folder)
    assert generation is not None
    expected = generation.license
    assert said.count(str(expected)) == 1 and expected.url in str(expected)
    (info,) = snapshots.list_snapshots(object_store, "model")
    assert info.origin["license"] == expected.name
    assert snapshots.push(object_store, folder, "model", "without").ref.digest == ref.digest
    said.clear()
    assert importers.base_model(object_store, "my-groot", tmp_path / "work", log=said.append) == ref and not said


@pytest.mark.slow
def test_what_pippa_generates_has_none(object_store, tmp_path):
    said: list[str] = []
    importers.base_model(object_store, importers.TINY, tmp_path, log=said.append)
    (info,) = snapshots.list_snapshots(object_store, "model")
    assert "license" not in info.origin and not any("NVIDIA" in line for line in said)
