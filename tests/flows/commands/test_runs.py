"""``pippa runs pull``, ``pippa runs sync`` and what ``pippa runs resume`` decides, from a real store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.commands import runs as commands
from flows.launch.docker.launcher import DockerLauncher
from trainer.config.argv import resolve
from trainer.config.run_spec import SnapshotRef
from trainer.runner import workspace
from trainer.runner.run_spec_builder import new_spec
from trainer.store import clock, heartbeat, runs
from trainer.store.object_store import ObjectStore


@pytest.fixture
def run(object_store: ObjectStore, s3_settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    dataset = SnapshotRef(kind="dataset", name="synthetic.PickNPlace", digest="d" * 64)
    spec = new_spec(*resolve("smoke", []), [dataset], SnapshotRef(kind="model", name="tiny", digest="b" * 64))
    monkeypatch.chdir(tmp_path)
    for name, value in s3_settings.to_environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    runs.write_spec(object_store, spec)
    runs.write_file(object_store, spec.run_id, "log.txt", b"hello")
    runs.write_file(object_store, spec.run_id, "report/loss.png", b"png")
    return spec.run_id


def test_pull_copies_the_record_and_never_overwrites(run: str, tmp_path: Path, capsys) -> None:
    assert cli.main(["runs", "pull", run, "here"]) == 0
    assert {str(file.relative_to(tmp_path / "here")) for file in (tmp_path / "here").rglob("*") if file.is_file()} == {
        "spec.json",
        "log.txt",
        "report/loss.png",
    }
    assert cli.main(["runs", "pull", run, "here"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_sync_hands_the_offline_parts_to_wandb_in_order(run: str, object_store, monkeypatch, tmp_path, capsys) -> None:
    for part in ("run-20260103_000000-x", "offline-run-20260102_000000-x", "offline-run-20260101_000000-x"):
        runs.write_file(object_store, run, f"wandb/{part}/run-x.wandb", b"w")
    # Uploading needs W&B itself; here its command says what it was given.
    told = tmp_path / "told"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").touch()
    (tmp_path / "wandb" / "__main__.py").write_text(
        "import os, pathlib, sys\n"
        "names = [pathlib.Path(part).name for part in sys.argv[3:] if list(pathlib.Path(part).glob('*.wandb'))]\n"
        "words = [sys.argv[1], *names, os.environ.get('WANDB_API_KEY', '')]\n"
        f"pathlib.Path({str(told)!r}).write_text(' '.join(words))\n"
    )
    (tmp_path / "key").write_text("k" * 40)
    monkeypatch.setenv("WANDB_API_KEY_FILE", str(tmp_path / "key"))
    assert cli.main(["runs", "sync", run]) == 0, capsys.readouterr().err
    assert told.read_text() == (
        f"sync offline-run-20260101_000000-x offline-run-20260102_000000-x run-20260103_000000-x {'k' * 40}"
    )


def test_what_wandb_could_not_take_is_an_error(run: str, object_store, monkeypatch, capsys) -> None:
    runs.write_file(object_store, run, "wandb/offline-run-20260102_000000-x/run-x.wandb", b"half a record")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert cli.main(["runs", "sync", run]) == 1
    assert "stay in the store" in capsys.readouterr().err


def test_a_run_without_offline_files_is_told_so(run: str, capsys) -> None:
    assert cli.main(["runs", "sync", run]) == 2
    assert "recorded nothing that W&B lacks" in capsys.readouterr().err


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What ``pippa runs resume`` carries out: the arguments of each call."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(commands, "run_training", lambda *arguments: calls.append(arguments) or 0)
    monkeypatch.delenv("PIPPA_LAUNCHER", raising=False)
    return calls


def went(object_store: ObjectStore, run: str, lock: str = "", ahead: timedelta = timedelta()) -> None:
    """The run says so now; ``ahead`` is how wrong its machine's clock is."""
    updated = datetime.now(UTC) + ahead
    runs.write_state(object_store, run, runs.RunState(status="running", step=7, of=400, updated=updated, lock=lock))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was heard of is not lately any more."""
    monkeypatch.setattr(heartbeat, "AHEAD", timedelta(0))
    monkeypatch.setattr(heartbeat, "ALIVE", timedelta(0))


def in_an_image(object_store: ObjectStore, run: str) -> None:
    spec = runs.read_spec(object_store, run).model_copy(update={"image": "sha256:" + "a" * 64})
    object_store.write_json(f"runs/{run}/spec.json", spec.model_dump(mode="json"))


def test_a_run_is_resumed_where_it_was_trained(run: str, object_store, resumed, silent) -> None:
    went(object_store, run)
    assert cli.main(["runs", "resume", run]) == 0
    in_an_image(object_store, run)
    assert cli.main(["runs", "resume", run]) == 0
    assert cli.main(["runs", "resume", run, "--launcher", "process"]) == 0
    assert [arguments[2] for arguments in resumed] == ["process", "docker", "process"]


def test_a_run_that_goes_on_is_not_trained_again_beside_itself(run, object_store, resumed, monkeypatch, capsys) -> None:
    went(object_store, run, ahead=timedelta(days=-1))
    assert cli.main(["runs", "resume", run]) == 2
    told = capsys.readouterr().err
    assert "step 7/400" in told and f"pippa runs follow {run}" in told and "docker" not in told
    in_an_image(object_store, run)
    monkeypatch.setattr(DockerLauncher, "knows", lambda *_: False)
    for flags in ([], ["--launcher", "process"]):
        assert cli.main(["runs", "resume", run, *flags]) == 2
        assert f"pippa runs resume {run} --launcher docker" in capsys.readouterr().err
    assert resumed == []
    # Where its container is, to resume is to follow it.
    monkeypatch.setattr(DockerLauncher, "knows", lambda *_: True)
    assert cli.main(["runs", "resume", run]) == 0
    assert [arguments[2] for arguments in resumed] == ["docker"]


def test_a_last_word_from_the_future_keeps_no_dead_run_alive(run, object_store, resumed, silent, capsys) -> None:
    went(object_store, run, ahead=timedelta(days=1))
    assert cli.main(["runs", "list"]) == 0
    assert "lost" in capsys.readouterr().out
    assert cli.main(["runs", "resume", run]) == 0 and len(resumed) == 1


def test_a_killed_run_of_this_machine_is_resumed_at_once(run, object_store, resumed, tmp_path, capsys) -> None:
    folder = tmp_path / "runs" / run
    with workspace.locked(folder, print):
        went(object_store, run, lock=workspace.lock_address(folder))
        assert cli.main(["runs", "resume", run]) == 2
        assert f"pippa runs resume {run} --force" in capsys.readouterr().err and resumed == []
        assert cli.main(["runs", "list"]) == 0
        assert "running" in capsys.readouterr().out
    assert cli.main(["runs", "list"]) == 0
    assert "lost" in capsys.readouterr().out
    assert cli.main(["runs", "resume", run]) == 0 and len(resumed) == 1


def test_force_resumes_what_was_heard_of(run, object_store, resumed) -> None:
    went(object_store, run, lock="elsewhere:/runs/lock")
    assert cli.main(["runs", "resume", run]) == 2
    assert cli.main(["runs", "resume", run, "--force"]) == 0 and len(resumed) == 1


def test_the_stores_clock_tells_how_long_ago(object_store, run) -> None:
    went(object_store, run)
    now = clock.store_time(object_store)
    assert heartbeat.is_alive(object_store, run, now)
    for off in (timedelta(seconds=61), timedelta(seconds=-61)):
        assert not heartbeat.is_alive(object_store, run, now + off)
    assert not list(object_store.list("gc/clock/"))
