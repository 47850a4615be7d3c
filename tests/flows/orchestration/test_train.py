"""The flow on a real Prefect server and a real object store, with the real trainer around an engine without torch."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import cli
from flows.launch import follow
from flows.launch.follow import TrainerLostError
from flows.launch.process import ProcessLauncher
from flows.orchestration import training
from tests.support.proxy import proxy
from tests.support.waiting import PATIENCE, until
from trainer.config.run_spec import new_run_id
from trainer.data.synthetic import make_synthetic
from trainer.errors import DatasetError, EngineError, OutOfMemoryError, StoreError, UsageError
from trainer.events import CheckpointEvent, Event, PhaseEvent, ProgressEvent, WarningEvent
from trainer.store import registry, runs
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store
from trainer.store.stores import open_store

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "synthetic", episodes=1)


@pytest.fixture
def overrides(stack: Mapping[str, str], dataset: Path, tmp_path: Path, monkeypatch) -> dict[str, Any]:
    """What makes ``smoke`` a run of the engine without torch."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    monkeypatch.setenv("PIPPA_FINETUNE_COMMAND", f"{sys.executable} {SUPPORT / 'fake_engine.py'}")
    monkeypatch.setenv("PIPPA_EVALUATE_COMMAND", f"{sys.executable} {SUPPORT / 'fake_evaluate.py'}")
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT.parents[1]))
    monkeypatch.setenv("FAKE_ENGINE", "{}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return {
        "dataset_path": [str(dataset)],
        "base_model_path": str(model),
        "max_steps": 20,
        "save_steps": 10,
        "output_dir": "out",
    }


@pytest.fixture
def store(s3_settings) -> ObjectStore:
    return S3Store(s3_settings)


@pytest.fixture
def fake_trainer(monkeypatch, tmp_path) -> Callable[..., None]:
    """Replace the trainer by one that only talks, and don't wait between attempts."""

    def replace(**options: object) -> None:
        monkeypatch.setenv("FAKE_TRAINER", json.dumps(options))
        launcher = ProcessLauncher(tmp_path / "home", [sys.executable, str(SUPPORT / "fake_trainer.py")])
        monkeypatch.setattr(training, "get_launcher", lambda *_: launcher)
        monkeypatch.setattr(training, "RETRY_SECONDS", (0, 0, 0))

    return replace


def run(overrides: dict[str, Any], run_id: str, launcher: str = "process", engine: str = "native") -> Any:
    """The flow's final state, as a worker carries it out."""
    from flows.orchestration.train import train

    flow: Callable[..., Any] = train
    return flow("smoke", overrides, launcher, engine, run_id, return_state=True)


@contextmanager
def hold(gpus: list[str], *_: object) -> Generator[list[str]]:
    yield gpus


def trained(
    overrides: dict[str, Any], run_id: str, observe: Callable[[Event], None] = lambda _: None
) -> training.Trained:
    """The training alone, without Prefect."""
    store = open_store()
    store.create()
    return training.Training(
        store, training.Request("smoke", overrides, "process", "native", run_id), observe, hold
    ).run()


@pytest.mark.slow
def test_a_run_that_another_machine_trains_is_waited_for_without_a_gpu_and_not_trained_again(
    overrides, store, fake_trainer, monkeypatch
):
    """As a worker does with a flow run whose own worker died while its container trains on."""
    fake_trainer(exit=7)
    run_id = new_run_id("smoke")
    with pytest.raises(EngineError):
        trained(overrides, run_id)
    first = runs.RunState(status="running", step=3, of=20, lock="first/boot:/var/lib/pippa/runs/lock")
    runs.write_state(store, run_id, first)
    heard: list[Event] = []

    def observe(event: Event) -> None:
        heard.append(event)
        if isinstance(event, ProgressEvent):
            runs.write_state(store, run_id, first.model_copy(update={"status": "done", "step": 20}))

    monkeypatch.setattr(training.elsewhere, "LOOK_SECONDS", 0.1)
    request = training.Request("smoke", overrides, "process", "native", run_id)
    ended = training.Training(store, request, observe, lambda *_: pytest.fail("it took a GPU"), waits=True).run()
    assert ended.report.spec.run_id == run_id and ended.report.status == "done" and not ended.interrupted
    assert [event.step for event in heard if isinstance(event, ProgressEvent)] == [3]
    assert any(isinstance(event, PhaseEvent) and f"{run_id} trains on first" in event.message for event in heard)


def artifacts(run_id: str) -> dict[str, Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_latest_artifacts()
    return {a.key.removeprefix(f"{run_id}-"): a.data for a in found if a.key and a.key.startswith(run_id)}


@pytest.fixture
def at(monkeypatch) -> Callable[[Path, signal.Signals], None]:
    """Sends this process a signal once a file exists and the trainer is followed, which may be later."""
    followed, until_ended = threading.Event(), follow._Run.until_ended

    def note(self: follow._Run) -> None:
        followed.set()
        until_ended(self)

    monkeypatch.setattr(follow._Run, "until_ended", note)

    def at(file: Path, number: signal.Signals) -> None:
        def wait() -> None:
            until(file.exists)
            assert followed.wait(PATIENCE)
            os.kill(os.getpid(), number)

        threading.Thread(target=wait, daemon=True).start()

    return at


def test_a_run_from_the_preset_to_the_report(overrides, store):
    run_id = new_run_id("smoke")
    state = run(overrides, run_id)
    assert state.is_completed(), state

    spec = runs.read_spec(store, run_id)
    assert spec.provenance["max_steps"] == "flag" and spec.provenance["learning_rate"] == "preset"
    assert [entry.step for entry in registry.list_checkpoints(store, run_id)] == [10, 20]

    left = artifacts(run_id)
    assert left["progress"] == 100
    assert [row["checkpoint"] for row in json.loads(left["checkpoints"])] == [f"{run_id}/10", f"{run_id}/20"]
    report = left["report"]
    assert spec.datasets[0].digest[:12] in report and "1.0000 → 0.0500" in report and f"{run_id}/20" in report
    assert "![Training loss](data:image/svg+xml;base64," in report
    page = runs.read_file(store, run_id, "report/report.html")
    assert page is not None and b"Training loss" in page and f"pippa report {run_id} --open" in report

    summary = state.result()
    assert summary["first_loss"] == 1 and summary["metrics"]["open_loop_mse"] == 0.25
    # Done is done: the same run id again trains nothing and changes nothing.
    again = run({}, run_id)
    assert again.is_completed()
    assert [entry.step for entry in registry.list_checkpoints(store, run_id)] == [10, 20]


@pytest.mark.slow
def test_a_server_that_restarts_costs_the_flow_nothing(overrides, stack, monkeypatch, tmp_path):
    gate = tmp_path / "go on"
    monkeypatch.setenv("FAKE_ENGINE", json.dumps({"pause_at": 6, "pause_file": str(gate)}))
    url, run_id = urlsplit(stack["PREFECT_API_URL"]), new_run_id("smoke")
    with proxy(str(url.hostname), int(url.port or 0)) as way:

        def restart() -> None:
            while not gate.with_name("go on.reached").exists():
                time.sleep(0.05)
            way.cut()
            gate.touch()
            # All is trained by then. Not later: the client gives up after a minute.
            until(lambda: registry.steps_of(open_store(), run_id) == [10, 20])
            way.mend()

        threading.Thread(target=restart, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{way.port}/api"}):
            assert run(overrides, run_id).is_completed()
    left = artifacts(run_id)
    assert left["progress"] == 100 and "open-loop" in left["report"]


def test_a_failed_training_fails_the_flow_with_the_trainers_words(overrides, monkeypatch):
    monkeypatch.setenv("FAKE_ENGINE", json.dumps({"fail": "reported", "at": 5}))
    state = run(overrides, new_run_id("smoke"))
    assert state.is_failed()
    error = state.result(raise_on_failure=False)
    assert isinstance(error, DatasetError) and "frame missing at step 5" in state.message
    assert "re-record it" in state.message


def test_ctrl_c_saves_and_the_run_goes_on_later(overrides, store, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_ENGINE", json.dumps({"pause_at": 3, "pause_file": str(tmp_path / "go on")}))
    run_id, events = new_run_id("smoke"), []

    def interrupt(event: Event) -> None:
        events.append(event)
        if isinstance(event, ProgressEvent) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    assert trained(overrides, run_id, interrupt).interrupted
    [saved] = registry.list_checkpoints(store, run_id)
    assert 3 <= saved.step < 20 and any(isinstance(event, CheckpointEvent) for event in events)
    stopped = runs.read_state(store, run_id)
    assert stopped is not None and stopped.status == "stopped"

    events.clear()
    assert not trained({}, run_id, events.append).interrupted
    steps = [event.step for event in events if isinstance(event, ProgressEvent)]
    assert steps[0] == saved.step + 1 and steps[-1] == 20


def test_ctrl_c_cancels_the_flow(overrides, fake_trainer, tmp_path, at):
    fake_trainer(count=str(tmp_path / "starts"), wait=True)
    at(tmp_path / "starts", signal.SIGINT)
    assert run(overrides, new_run_id("smoke")).is_cancelled()


def test_a_store_that_was_away_is_tried_again_with_the_same_run(overrides, fake_trainer, tmp_path):
    error = {"event": "error", "code": 4, "message": "the store is away", "hint": ""}
    fake_trainer(count=str(tmp_path / "starts"), heal_after=2, lines=[error], exit=4)
    events: list[Event] = []
    trained(overrides, new_run_id("smoke"), events.append)
    assert (tmp_path / "starts").read_text() == "3"
    assert len([event for event in events if isinstance(event, WarningEvent)]) == 2


def test_it_is_not_tried_for_ever(overrides, fake_trainer, tmp_path):
    fake_trainer(count=str(tmp_path / "starts"), heal_after=99, exit=-9)
    with pytest.raises(TrainerLostError):
        trained(overrides, new_run_id("smoke"))
    assert (tmp_path / "starts").read_text() == "4"


def test_what_can_not_heal_is_not_tried_again(overrides, fake_trainer, tmp_path):
    error = {"event": "error", "code": 5, "message": "out of memory", "hint": "lower --batch-size"}
    fake_trainer(count=str(tmp_path / "starts"), heal_after=99, lines=[error], exit=5)
    with pytest.raises(OutOfMemoryError):
        trained(overrides, new_run_id("smoke"))
    assert (tmp_path / "starts").read_text() == "1"


def test_no_process_survives_a_cancellation(overrides, fake_trainer, tmp_path, at):
    """SIGTERM to the flow: Prefect raises it at any line, and at the end hands it to the handler there was before."""
    fake_trainer(count=str(tmp_path / "starts"), wait=True)
    run_id = new_run_id("smoke")
    at(tmp_path / "starts", signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, cli._terminated)
    try:
        with pytest.raises(SystemExit, match="143"):
            run(overrides, run_id)
    finally:
        signal.signal(signal.SIGTERM, before)
    children = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [command for command in children if run_id in command]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"batch_size": 0}, "--batch-size"), ({"batchsize": 1}, "--batchsize"), ({"lora_rank": "x"}, "x")],
)
def test_wrong_overrides_are_named(overrides, wrong, named):
    state = run({**overrides, **wrong}, new_run_id("smoke"))
    assert isinstance(state.result(raise_on_failure=False), UsageError) and named in state.message


def test_an_engine_that_is_not_here_is_refused_before_anything_is_brought(overrides, store, monkeypatch):
    monkeypatch.delenv("PIPPA_FINETUNE_COMMAND")
    state = run(overrides, new_run_id("smoke"), engine="isaac-uv")
    assert isinstance(state.result(raise_on_failure=False), UsageError) and "--launcher docker" in state.message
    assert list(store.list("")) == []


def test_a_run_id_of_another_configuration_is_refused(overrides, fake_trainer, store):
    fake_trainer()
    run_id = new_run_id("smoke")
    assert run(overrides, run_id).is_completed()
    state = run({**overrides, "max_steps": 30}, run_id)
    assert isinstance(state.result(raise_on_failure=False), UsageError) and "runs resume" in state.message


def test_the_store_s_refusal_fails_the_flow(overrides, monkeypatch):
    monkeypatch.setenv("PIPPA_S3_SECRET_KEY", "not-the-key")
    state = run(overrides, new_run_id("smoke"))
    assert isinstance(state.result(raise_on_failure=False), StoreError) and "not-the-key" not in state.message
