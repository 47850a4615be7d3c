"""Sources brought into the store by the one who can: nobody, this process, or a container."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flows.orchestration.ensure_imported import ensure_imported, prepare_job
from trainer import importers
from trainer.events import Event, PhaseEvent, SnapshotEvent, parse_event
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store


@pytest.fixture
def store(s3_settings, tmp_path, monkeypatch) -> ObjectStore:
    for name, value in {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    return S3Store(s3_settings)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "arm-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_what_the_store_has_needs_no_launcher(store, model, tmp_path):
    ref = importers.base_model(store, str(model), tmp_path)
    assert ensure_imported("model", "arm-model", "docker", "run") == ref


def test_a_folder_is_pushed_from_here_whatever_the_launcher(store, model):
    seen: list[Event] = []
    ref = ensure_imported("model", str(model), "docker", "run", observe=seen.append)
    assert ref.name == "arm-model" and isinstance(seen[-1], PhaseEvent) and "uploaded" in seen[-1].message


def test_the_trainer_says_as_an_event_what_it_brought(store, model):
    job = prepare_job("model", str(model), "smoke-20260101-000000-abcd")
    command = [sys.executable, "-m", "trainer.cli", *job.arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [parse_event(line) for line in done.stdout.splitlines()]
    assert [type(event) for event in events] == [PhaseEvent, SnapshotEvent]
    assert isinstance(events[-1], SnapshotEvent) and events[-1].ref == importers.find(store, "model", "arm-model")


def test_the_same_source_of_the_same_run_is_the_same_job():
    one = prepare_job("dataset", "us/pens@main", "run-1", "so100_dualcam")
    assert one == prepare_job("dataset", "us/pens@main", "run-1", "so100_dualcam")
    assert one.name.startswith("run-1-dataset-") and not one.gpus and one.role == "prepare"
    assert (
        one.name != prepare_job("dataset", "us/cups", "run-1").name != prepare_job("dataset", "us/cups", "run-2").name
    )
