from __future__ import annotations

import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_engine import safetensors, write
from tests.support.proxy import proxy
from tests.support.waiting import until
from trainer.config.presets import get_preset
from trainer.config.run_spec import RunSpec, SnapshotRef, new_run_id
from trainer.errors import StoreError
from trainer.events import CheckpointEvent, WarningEvent
from trainer.runner import checkpoint_folder, checkpoint_uploader
from trainer.runner.checkpoint_uploader import PENDING, Uploader
from trainer.runner.wandb_setup import default_wandb
from trainer.store import registry, resume_points, snapshots, tree
from trainer.store.hashing import hash_file
from trainer.store.manifest import FileRecord, Manifest
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store


@pytest.fixture(scope="module")
def object_store(buckets) -> Iterator[ObjectStore]:
    with buckets.one() as settings:
        yield S3Store(settings)


@pytest.fixture
def spec() -> RunSpec:
    preset = get_preset("smoke")
    run_id = new_run_id("smoke")
    return RunSpec(
        run_id=run_id,
        preset="smoke",
        config=preset.config,
        provenance={},
        datasets=[SnapshotRef(kind="dataset", name="data", digest="0" * 64)],
        base_model=SnapshotRef(kind="model", name="base", digest="0" * 64),
        wandb=default_wandb(preset, run_id, {}),
    )


class Uploading:
    def __init__(self, store: ObjectStore, spec: RunSpec, folder: Path, **options) -> None:
        self.store, self.spec, self.folder = store, spec, folder
        self.events: list[object] = []
        self.uploader = Uploader(store, spec, folder, self.events.append, **options)

    @property
    def steps(self) -> list[int]:
        return sorted(entry.step for entry in registry.list_checkpoints(self.store, self.spec.run_id))

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, WarningEvent)]

    def resume_point(self, step: int) -> resume_points.ResumePoint:
        files = tree.scan(self.folder / f"checkpoint-{step}")
        records = [FileRecord(path=f.path, size=f.size, sha256=hash_file(f.source).sha256) for f in files]
        manifest = Manifest.of("checkpoint", resume_points.snapshot_name(self.spec.run_id), records, {})
        return resume_points.ResumePoint(step=step, snapshot=manifest.ref)

    def commit(self, step: int) -> Path:
        """As the native engine does."""
        write(self.folder / f".checkpoint-{step}", step)
        folder = (self.folder / f".checkpoint-{step}").rename(self.folder / f"checkpoint-{step}")
        self.uploader.saved()
        return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_checkpoints_are_registered_in_order_while_the_training_goes_on(object_store, spec, tmp_path):
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    job.uploader.start()
    for step in (5, 10):
        job.commit(step)
        until(lambda step=step: step in job.steps)
    assert job.uploader.finish()
    uploaded = [event for event in job.events if isinstance(event, CheckpointEvent)]
    assert [event.step for event in uploaded] == [5, 10]
    assert uploaded[1].bytes_uploaded < uploaded[0].bytes_uploaded - 50_000  # the frozen shard is there already
    assert registry.aliases(object_store) == {
        "latest": f"{spec.run_id}/10",
        "smoke/latest": f"{spec.run_id}/10",
    }
    pulled = snapshots.pull(object_store, registry.resolve(object_store, "latest").snapshot, tmp_path / "pulled")
    assert contents(pulled) == {
        path: content
        for path, content in contents(tmp_path / "checkpoint-10").items()
        if not resume_points.is_training_state(path)
    }


def test_a_checkpoint_the_engine_deletes_at_once_is_still_uploaded(object_store, spec, tmp_path, monkeypatch):
    wait, real = threading.Event(), snapshots.push

    def held(*arguments, **options):
        wait.wait()
        return real(*arguments, **options)

    monkeypatch.setattr(snapshots, "push", held)
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    job.uploader.start()
    for step in (5, 10, 15):
        folder = job.commit(step)
        until(lambda name=folder.name: (tmp_path / PENDING / name).is_dir())
        shutil.rmtree(folder)
    wait.set()
    assert job.uploader.finish()
    assert job.steps == [5, 10, 15]
    assert not list((tmp_path / PENDING).iterdir())


def test_what_is_written_in_place_is_taken_only_when_it_is_whole(object_store, spec, tmp_path):
    job = Uploading(object_store, spec, tmp_path, atomic=False, quiet_seconds=0.5)
    job.uploader.start()
    write(tmp_path / "checkpoint-5", 5)
    shards = tmp_path / "checkpoint-5" / "model-00002-of-00002.safetensors"
    whole = shards.read_bytes()
    for _ in range(5):  # still being written, however long it takes
        shards.write_bytes(whole[: len(whole) // 2])
        time.sleep(0.2)
        assert job.steps == []
    shards.write_bytes(whole)
    until(lambda: job.steps == [5])
    write(tmp_path / "checkpoint-10", 10)
    write(tmp_path / "checkpoint-15", 15)  # the engine continues: the one before is complete
    until(lambda: 10 in job.steps)
    assert job.uploader.finish()
    assert job.steps == [5, 10, 15] and job.warnings == []


@pytest.mark.parametrize("atomic", [True, False])
def test_half_a_checkpoint_is_never_registered(object_store, spec, tmp_path, atomic):
    job = Uploading(object_store, spec, tmp_path, atomic=atomic)
    job.uploader.start()
    folder = job.commit(5)
    until(lambda: atomic is False or job.steps == [5])
    write(tmp_path / ".checkpoint-10", 10)
    (tmp_path / ".checkpoint-10" / "model-00001-of-00002.safetensors").unlink()
    (tmp_path / ".checkpoint-10").rename(tmp_path / "checkpoint-10")
    assert job.uploader.finish()
    assert job.steps == [5] and folder.is_dir()
    assert len(job.warnings) == 1 and "checkpoint-10 is not a whole checkpoint" in job.warnings[0]


def test_a_store_that_is_down_costs_no_checkpoint_and_one_warning(object_store, spec, tmp_path):
    host, _, port = object_store.settings.host.partition(":")
    with proxy(host, int(port)) as way:
        settings = object_store.settings.model_copy(update={"endpoint": f"http://127.0.0.1:{way.port}"})
        job = Uploading(S3Store(settings, patience=0.5), spec, tmp_path, atomic=True)
        job.uploader.start()
        job.commit(5)
        until(lambda: any(isinstance(event, CheckpointEvent) for event in job.events))
        way.cut()
        for step in (10, 15):
            folder = job.commit(step)
            until(lambda name=folder.name: (tmp_path / PENDING / name).is_dir())
            shutil.rmtree(folder)
        until(lambda: job.warnings)
        assert not job.uploader.finish(patience_seconds=0.5)  # given up, but kept
        assert len(job.warnings) == 1 and "uploaded yet" in job.warnings[0]
        way.mend()
        again = Uploading(S3Store(settings), spec, tmp_path, atomic=True, registered=[5])
        again.uploader.start()
        assert again.uploader.finish()
    job.store = object_store
    assert job.steps == [5, 10, 15]
    assert [event.step for event in again.events if isinstance(event, CheckpointEvent)] == [10, 15]
    assert registry.aliases(object_store)["latest"] == f"{spec.run_id}/15"


def test_an_outage_ends_by_itself(object_store, spec, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.runner.checkpoint_uploader.BACKOFF_SECONDS", (0.05, 0.1))
    real, failures = snapshots.push, [OSError("a cable"), RuntimeError("anything"), OSError("again")]

    def flaky(*arguments, **options):
        if failures:
            raise failures.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(snapshots, "push", flaky)
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    job.uploader.start()
    job.commit(5)
    assert job.uploader.finish()
    assert job.steps == [5] and len(job.warnings) == 1 and job.uploader.outage == ""


def test_a_step_registered_elsewhere_keeps_what_is_registered(object_store, spec, tmp_path):
    first = Uploading(object_store, spec, tmp_path / "a", atomic=True)
    second = Uploading(object_store, spec, tmp_path / "b", atomic=True)
    for job in (first, second):
        job.folder.mkdir()
        folder = job.commit(5)
        (folder / "config.json").write_bytes(job.folder.name.encode())
        job.uploader.start()
        assert job.uploader.finish()
    (entry,) = registry.list_checkpoints(object_store, spec.run_id)
    pulled = snapshots.pull(object_store, entry.snapshot, tmp_path / "pulled")
    assert (pulled / "config.json").read_bytes() == b"a"
    assert "not registered again" in second.warnings[0]


def test_training_state_follows_the_checkpoints(object_store, spec, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.runner.checkpoint_registration.STATE_PAUSE", 0)
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    job.uploader.start()
    for step in (5, 10):
        job.commit(step)
        until(lambda step=step: resume_points.read(object_store, spec.run_id) == job.resume_point(step))
    assert job.uploader.finish()
    point = resume_points.read(object_store, spec.run_id)
    assert point is not None
    pulled = snapshots.pull(object_store, point.snapshot, tmp_path / "elsewhere")
    assert contents(pulled) == contents(tmp_path / "checkpoint-10")


@pytest.mark.parametrize("resumable", [True, False])
def test_training_state_takes_a_small_share_of_the_link_and_goes_up_when_a_run_is_stopped(
    object_store, spec, tmp_path, monkeypatch, resumable
):
    monkeypatch.setattr("trainer.runner.checkpoint_registration.STATE_PAUSE", 1e9)
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    job.uploader.start()
    for step in (5, 10, 15):
        job.commit(step)
    until(lambda: job.steps == [5, 10, 15])
    assert resume_points.read(object_store, spec.run_id) is None
    assert job.uploader.finish(resumable=resumable)
    assert resume_points.read(object_store, spec.run_id) == (job.resume_point(15) if resumable else None)


def test_a_checkpoint_costs_the_store_what_was_tuned(object_store, spec, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.runner.checkpoint_registration.STATE_PAUSE", 1e9)
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    steps = range(5, 55, 5)
    folders = [job.commit(step) for step in steps]
    for step, folder in zip(steps, folders, strict=True):
        # Told apart from the checkpoint before, and heavy as a trained part is.
        safetensors(folder / "model-00002-of-00002.safetensors", random.Random(step).randbytes(200_000))
    job.uploader.start()
    assert job.uploader.finish()
    whole = sum(
        len(content) for path, content in contents(folders[-1]).items() if not resume_points.is_training_state(path)
    )
    sent = sum(event.bytes_uploaded for event in job.events if isinstance(event, CheckpointEvent))
    assert job.steps == list(steps) and sent <= whole + len(steps) * 200_000 * 1.05


def test_an_older_step_does_not_replace_a_newer_resume_point(object_store, spec, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.runner.checkpoint_registration.STATE_PAUSE", 0)
    for folder, step in (("a", 10), ("b", 5)):
        job = Uploading(object_store, spec, tmp_path / folder, atomic=True)
        job.folder.mkdir()
        job.commit(step)
        job.uploader.start()
        assert job.uploader.finish(resumable=True)
    point = resume_points.read(object_store, spec.run_id)
    assert point is not None and point.step == 10


def test_training_state_that_can_not_be_kept_holds_up_no_checkpoint(object_store, spec, tmp_path, monkeypatch):
    def damaged(*_):
        raise StoreError("resume.json is damaged", "Delete it.")

    monkeypatch.setattr("trainer.runner.checkpoint_registration.STATE_PAUSE", 0)
    monkeypatch.setattr(resume_points, "move", damaged)
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    job.uploader.start()
    for step in (5, 10):
        job.commit(step)
    assert job.uploader.finish()
    assert job.steps == [5, 10]
    assert all("resume.json is damaged" in warning for warning in job.warnings) and len(job.warnings) == 2


class Disk:
    """The disk under the checkpoints: ``full`` for links and copies, ``stale`` for reading a trainer state."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = self.stale = False
        read, link = Path.read_text, checkpoint_uploader.link_or_copy

        def read_text(path, *arguments, **options):
            if self.stale and path.name == "trainer_state.json":
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
            return read(path, *arguments, **options)

        def link_or_copy(source, target):
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            link(source, target)

        monkeypatch.setattr(Path, "read_text", read_text)
        monkeypatch.setattr(checkpoint_uploader, "link_or_copy", link_or_copy)


@pytest.fixture
def disk(monkeypatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("trouble", ["full", "stale"])
@pytest.mark.parametrize("atomic", [True, False])
def test_a_disk_in_trouble_costs_no_checkpoint_and_one_warning(object_store, spec, tmp_path, disk, trouble, atomic):
    job = Uploading(object_store, spec, tmp_path, atomic=atomic, quiet_seconds=0)
    job.uploader.start()
    job.commit(5)
    until(lambda: job.steps == [5])
    setattr(disk, trouble, True)
    for step in (10, 15):
        job.commit(step)
    until(lambda: job.warnings)
    time.sleep(0.5)  # tried again, and again
    setattr(disk, trouble, False)
    assert job.uploader.finish()
    assert job.steps == [5, 10, 15]
    assert len(job.warnings) == 1 and "checkpoint-10 can't be set aside" in job.warnings[0]


@pytest.mark.parametrize("trouble", ["full", "stale"])
def test_a_checkpoint_that_was_never_set_aside_is_no_success(object_store, spec, tmp_path, disk, trouble):
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    job.uploader.start()
    job.commit(5)
    until(lambda: job.steps == [5])
    setattr(disk, trouble, True)
    job.commit(10)
    assert not job.uploader.finish(patience_seconds=0.5)
    error = checkpoint_uploader.failure(job.uploader, spec.run_id)
    assert "checkpoint-10 can't be set aside" in error.message
    assert f"safe in {tmp_path};" in error.hint
    assert job.steps == [5]
    setattr(disk, trouble, False)
    again = Uploading(object_store, spec, tmp_path, atomic=True, registered=[5])
    again.uploader.start()
    assert again.uploader.finish()
    assert job.steps == [5, 10] and again.warnings == []


def test_one_checkpoint_that_can_not_be_read_holds_up_no_other(object_store, spec, tmp_path, monkeypatch):
    real = checkpoint_folder.problem

    def problem(folder, step):
        if step == 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(folder, step)

    monkeypatch.setattr(checkpoint_folder, "problem", problem)
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    job.uploader.start()
    for step in (5, 10):
        job.commit(step)
    until(lambda: job.steps == [10])
    assert not job.uploader.finish(patience_seconds=0.5)


def test_a_pending_folder_that_can_not_be_listed_is_tried_again(object_store, spec, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.runner.checkpoint_uploader.BACKOFF_SECONDS", (0.05, 0.1))
    job = Uploading(object_store, spec, tmp_path, atomic=True)
    real, failures = checkpoint_folder.checkpoints, [OSError("stale"), OSError("stale")]

    def checkpoints(folder):
        if folder == job.uploader.pending_dir and failures:
            raise failures.pop()
        return real(folder)

    job.uploader.start()
    monkeypatch.setattr(checkpoint_folder, "checkpoints", checkpoints)
    job.commit(5)
    assert job.uploader.finish()
    assert job.steps == [5] and len(job.warnings) == 1
