"""Uploads while the store fails in every way, while the disk fills, and while the uploading process is killed."""

from __future__ import annotations

import logging
import random
import shutil
import signal
import threading
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.fake_engine import write
from tests.support.fault_proxy import FAULTS, fault_proxy
from tests.support.waiting import until
from tests.trainer.store.conftest import a_spec
from trainer.errors import StoreError
from trainer.events import CheckpointEvent, WarningEvent
from trainer.runner import checkpoint_uploader
from trainer.runner.checkpoint_uploader import PENDING, Uploader
from trainer.store import registry, snapshots
from trainer.store.folder import FolderStore
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store

log = logging.getLogger(__name__)


class Training:
    """An uploader, and an engine that keeps one checkpoint only."""

    def __init__(self, store: ObjectStore, folder: Path, **options: object) -> None:
        self.spec = a_spec()
        self.store, self.folder = store, folder
        self.events: list[object] = []
        self.uploader = Uploader(store, self.spec, folder, self.events.append, atomic=True, **options)  # pyrefly: ignore
        folder.mkdir(exist_ok=True)
        self.uploader.start()

    def save(self, *steps: int) -> None:
        for step in steps:
            write(self.folder / f".checkpoint-{step}", step)
            final = (self.folder / f".checkpoint-{step}").rename(self.folder / f"checkpoint-{step}")
            self.uploader.saved()
            until(lambda step=step: step in self.uploader._seen)
            shutil.rmtree(final)

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, WarningEvent)]

    @property
    def outages(self) -> list[str]:
        return [message for message in self.warnings if "can't be uploaded yet" in message]

    @property
    def uploaded(self) -> list[int]:
        return [event.step for event in self.events if isinstance(event, CheckpointEvent)]


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(checkpoint_uploader, "BACKOFF_SECONDS", (0.05, 0.2))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "fault", [pytest.param(each, marks=pytest.mark.slow if each == "stall" else ()) for each in FAULTS]
)
def test_the_store_fails_for_a_while_and_every_checkpoint_gets_there(s3_settings, tmp_path, fault):
    host, _, port = s3_settings.host.partition(":")
    with fault_proxy(host, int(port), seconds_per_chunk=0.05) as way:
        settings = s3_settings.model_copy(update={"endpoint": f"http://127.0.0.1:{way.port}"})
        # Only where nothing else ends a request: a busy machine's store takes longer to answer.
        store = S3Store(settings, patience=0.3, **({"read_seconds": 0.7} if fault == "stall" else {}))
        training = Training(store, tmp_path / "run")
        training.save(1)
        until(lambda: training.uploaded == [1])
        before = len(training.outages)  # so little patience is too little for a store on a busy machine
        way.begin(fault)
        training.save(2, 3, 4)
        if fault == "slow":
            until(lambda: way.hits > 3)
        else:
            until(lambda: len(training.outages) > before and training.uploader.outage)
            # A person who gives up now is told which, why, and where they are.
            error = checkpoint_uploader.failure(training.uploader, training.spec.run_id)
            assert isinstance(error, StoreError) and error.exit_code == 4
            assert "2, 3, 4)" in error.message and PENDING in error.hint
            assert ("PIPPA_S3_ACCESS_KEY" in error.message + error.hint) == (fault == "refused")
        warned = len(training.outages) - before
        way.end()
        training.save(5)
        assert training.uploader.finish()
    assert training.uploaded == [1, 2, 3, 4, 5] and warned == (fault != "slow")
    store = S3Store(s3_settings)
    for entry in registry.list_checkpoints(store):
        assert snapshots.verify(store, entry.snapshot) == []
    assert registry.resolve(store, "latest").step == 5


@pytest.mark.usefixtures("impatient")
def test_what_waits_is_bounded_and_the_newest_is_never_dropped(s3_settings, tmp_path):
    host, _, port = s3_settings.host.partition(":")
    with fault_proxy(host, int(port)) as way:
        settings = s3_settings.model_copy(update={"endpoint": f"http://127.0.0.1:{way.port}"})
        training = Training(S3Store(settings, patience=0.1), tmp_path / "run", most_waiting=3)
        way.begin("down")
        training.save(*range(1, 11))
        # The newest may lie in the engine's folder too, and the one that is tried is not dropped.
        until(lambda: len(training.uploader.waiting()) <= 4, training.uploader.waiting)
        way.end()
        assert training.uploader.finish()
    assert training.uploaded[-1] == 10 and len(training.uploaded) <= 4
    assert sorted([*training.uploader.dropped, *training.uploaded]) == list(range(1, 11))
    assert sum("DROPPED" in warning for warning in training.warnings) == len(training.uploader.dropped)


@pytest.mark.usefixtures("impatient")
def test_uploads_that_time_out_are_not_said_to_have_been_stopped(s3_settings, tmp_path):
    host, _, port = s3_settings.host.partition(":")
    with fault_proxy(host, int(port)) as way:
        settings = s3_settings.model_copy(update={"endpoint": f"http://127.0.0.1:{way.port}"})
        training = Training(S3Store(settings), tmp_path / "run")
        way.begin("stall")
        training.save(1)
        assert not training.uploader.finish(patience_seconds=0.5)
        message = checkpoint_uploader.failure(training.uploader, training.spec.run_id).message
        assert "nothing got through for 0.5 s" in message and "(step 1)" in message


@pytest.mark.usefixtures("impatient")
@pytest.mark.slow
def test_an_upload_that_is_slow_but_goes_on_is_not_given_up(s3_settings, tmp_path, monkeypatch):
    host, _, port = s3_settings.host.partition(":")
    with fault_proxy(host, int(port), seconds_per_chunk=0.4) as way:
        settings = s3_settings.model_copy(update={"endpoint": f"http://127.0.0.1:{way.port}"})
        # A clock that goes on with each byte that passes, and stands while a busy machine does nothing.
        monkeypatch.setattr(checkpoint_uploader, "time", SimpleNamespace(monotonic=lambda: way.slowed))
        write(tmp_path / "checkpoint-1", 1)
        for number in range(40):
            (tmp_path / "checkpoint-1" / str(number)).write_bytes(bytes([number]) * 10_000)
        way.begin("stall")
        training = Training(S3Store(settings), tmp_path)

        def go_on() -> None:
            training.uploader._engine_ended.wait()
            way.begin("slow")

        threading.Thread(target=go_on).start()
        patience = 150_000  # a third of all
        assert training.uploader.finish(patience_seconds=patience)
        assert way.slowed > 2 * patience and training.uploaded == [1]


def test_a_run_that_goes_on_keeps_what_it_was_told_to(tmp_path):
    store = FolderStore(tmp_path / "store")
    spec = a_spec()
    spec = spec.model_copy(update={"config": spec.config.model_copy(update={"keep_last": 2, "keep_every": 4})})
    events: list[object] = []
    folder = tmp_path / "run"
    folder.mkdir()
    uploader = Uploader(store, spec, folder, events.append, atomic=True)
    uploader.start()
    for step in range(1, 10):
        write(folder / f".checkpoint-{step}", step)
        (folder / f".checkpoint-{step}").rename(folder / f"checkpoint-{step}")
        uploader.saved()
        if step == 3:
            until(lambda: registry.steps_of(store, spec.run_id)[-1:] == [3])
            registry.set_alias(store, "good", registry.resolve(store, f"{spec.run_id}/3"))
    assert uploader.finish()
    assert registry.steps_of(store, spec.run_id) == [3, 4, 8, 9]
    for entry in registry.list_checkpoints(store):
        assert snapshots.verify(store, entry.snapshot) == []
    assert len(list(store.list("blobs/"))) < 4 * 4 + 4
    # What was removed lies on this disk still, and a restart doesn't bring it back.
    again = Uploader(store, spec, folder, events.append, atomic=True, registered=[3, 4, 8, 9])
    again.start()
    assert again.finish() and registry.steps_of(store, spec.run_id) == [3, 4, 8, 9]


def _upload(root: Path, spec: object, folder: Path, registered: list[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    uploader = Uploader(FolderStore(root), spec, folder, lambda _: None, atomic=True, registered=registered)  # pyrefly: ignore
    uploader.start()
    uploader.finish()


@pytest.mark.slow
def test_the_uploader_killed_50_times_never_shows_a_torn_checkpoint(tmp_path, record_property):
    """SIGKILL at random moments; after each: nothing torn in list, verify or alias. At last everything is there."""
    seed = random.randrange(1 << 32)
    record_property("seed", seed)
    log.info("seed %d", seed)
    draw = random.Random(seed)
    store, folder, spec = FolderStore(tmp_path / "store"), tmp_path / "run", a_spec()
    folder.mkdir()
    context, step, killed = get_context("fork"), 0, 0
    while killed < 50:
        if step < 60 and draw.random() < 0.8:
            step += 1
            write(folder / f".checkpoint-{step}", step)
            (folder / f".checkpoint-{step}").rename(folder / f"checkpoint-{step}")
        known = registry.steps_of(store, spec.run_id)
        process = context.Process(target=_upload, args=(store.root, spec, folder, known))
        process.start()
        process.join(draw.uniform(0, 0.15))
        if process.is_alive():
            process.kill()
            killed += 1
        process.join()
        entries = registry.list_checkpoints(store, spec.run_id)
        assert {entry.step for entry in entries} >= set(known)
        for entry in entries:
            if entry.step not in known or killed == 50:
                assert snapshots.verify(store, entry.snapshot) == [], seed
        for name, target in registry.aliases(store).items():
            assert registry.resolve(store, name).name == target, seed
    final = Uploader(store, spec, folder, lambda _: None, atomic=True, registered=registry.steps_of(store, spec.run_id))
    final.start()
    assert final.finish()
    assert registry.steps_of(store, spec.run_id) == list(range(1, step + 1))
    assert registry.resolve(store, "latest").step == step
