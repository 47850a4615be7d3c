"""``trainer run`` as a user runs it, with an engine without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_engine import safetensors
from tests.support.isaac.expected import push_base_model
from tests.support.waiting import PATIENCE
from trainer.config.settings import S3Settings
from trainer.data.synthetic import make_synthetic
from trainer.events import Event, parse_event
from trainer.store import registry, runs
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "synthetic", episodes=1)


class Trainer:
    """``trainer run`` as a user runs it, with the fake engine."""

    def __init__(self, settings: S3Settings, folder: Path, dataset: Path) -> None:
        self.settings, self.folder, self.dataset = settings, folder, dataset
        self.store = S3Store(settings)
        self.home = folder / "home"
        self.model = folder / "base"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        safetensors(self.model / "model.safetensors", b"weights")
        self.engine: dict[str, object] = {}
        self.environ = {
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            **settings.to_environ(),
            "HOME": str(folder),
            "PIPPA_FINETUNE_COMMAND": f"{sys.executable} {SUPPORT / 'fake_engine.py'}",
            "PIPPA_EVALUATE_COMMAND": f"{sys.executable} {SUPPORT / 'fake_evaluate.py'}",
            "PYTHONPATH": str(SUPPORT.parents[1]),
        }

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer.cli", "run", *arguments],
            env={
                **self.environ,
                "PIPPA_HOME": str(self.home),
                "FAKE_ENGINE": json.dumps({**self.engine, "calls": str(self.folder / "calls")}),
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr").open("w"),
            text=True,
            cwd=self.folder,
        )

    def preset(self, *flags: str, **environ: str) -> subprocess.Popen[str]:
        steps = ["--max-steps", "20", "--save-steps", "5"]
        dataset = [] if "--dataset-path" in flags else ["--dataset-path", str(self.dataset)]
        sources = [*dataset, "--base-model-path", str(self.model)]
        return self.start("smoke", *steps, *sources, *flags, **environ)

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, list[Event]]:
        out, _ = process.communicate(timeout=PATIENCE)
        events = [parse_event(line) for line in out.splitlines()]
        assert all(events), out  # nothing but events on stdout
        return process.returncode, [event for event in events if event]

    def pause(self, step: int) -> Path:
        file = self.folder / "go"
        self.engine |= {"pause_at": step, "pause_file": str(file)}
        return Path(f"{file}.reached")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def calls(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    @property
    def run_id(self) -> str:
        (found,) = (self.home / "runs").iterdir()
        return found.name

    @property
    def steps(self) -> list[int]:
        return sorted(entry.step for entry in registry.list_checkpoints(self.store, self.run_id))

    def state(self) -> runs.RunState:
        state = runs.read_state(self.store, self.run_id)
        assert state is not None
        return state


@pytest.fixture(scope="module")
def bucket(buckets) -> Iterator[S3Settings]:
    with buckets.one() as settings:
        yield settings


@pytest.fixture(scope="module")
def store(bucket, tmp_path_factory) -> ObjectStore:
    """One that has a base model for upstream's engines."""
    store = S3Store(bucket)
    push_base_model(store, tmp_path_factory.mktemp("models"))
    return store


@pytest.fixture
def trainer(bucket, tmp_path, synthetic) -> Trainer:
    return Trainer(bucket, tmp_path, synthetic)
