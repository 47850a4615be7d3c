from __future__ import annotations

import functools
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support.fake_engine import write
from tests.support.processes import alive, kill_at_once
from tests.support.proxy import proxy
from tests.support.waiting import PATIENCE, until
from trainer import cli
from trainer.data.config_file import to_toml
from trainer.data.configs import DATA_CONFIGS, get_data_config
from trainer.events import CheckpointEvent, ErrorEvent, ProgressEvent, WarningEvent, parse_event
from trainer.runner.checkpoint_folder import checkpoints
from trainer.store import registry, resume_points, runs, snapshots
from trainer.store.s3 import S3Store

SUPPORT = Path(__file__).parents[2] / "support"
WANDB_KEY = "9f" * 20


def test_a_whole_run(trainer):
    environ = {"WANDB_API_KEY": WANDB_KEY, "WANDB_BASE_URL": "http://127.0.0.1:9", "FAKE_EVALUATE": "0.125"}
    code, events = trainer.finish(trainer.preset(**environ))
    assert code == 0, trainer.stderr
    phases = list(dict.fromkeys(event.phase for event in events if event.event == "phase"))
    assert phases == ["prepare", "check", "load", "train", "upload", "evaluate"]
    assert [event.step for event in events if isinstance(event, CheckpointEvent)] == [5, 10, 15, 20]
    assert [event.step for event in events if isinstance(event, ProgressEvent)] == list(range(1, 21))
    assert events[-1].event == "done"
    (warning,) = [event for event in events if isinstance(event, WarningEvent)]
    assert "recorded offline" in warning.message  # the W&B server can't be reached

    run_id = trainer.run_id
    state = trainer.state()
    assert (state.status, state.step, state.of, state.exit_code) == ("done", 20, 20, 0)
    assert state.metrics["loss"] == pytest.approx(1 / 20) and state.metrics["open_loop_mse"] == 0.125
    newest = registry.resolve(trainer.store, "smoke/best")
    assert (newest.run_id, newest.step, newest.metrics) == (run_id, 20, {"open_loop_mse": 0.125})
    spec = runs.read_spec(trainer.store, run_id)
    assert newest.spec == spec and spec.provenance["max_steps"] == "flag" and spec.provenance["report_to"] == "preset"
    assert [ref.name for ref in spec.datasets] == ["synthetic"] and spec.base_model.name == "base"

    kept = {found.key.removeprefix(f"runs/{run_id}/") for found in trainer.store.list(f"runs/{run_id}/")}
    assert {"spec.json", "state.json", "events.jsonl", "log.txt", "report/open_loop.txt"} <= kept
    assert [name for name in kept if name.startswith("wandb/offline-run-") and name.endswith("/run.wandb")]
    assert "pippa runs sync" in trainer.stderr
    recorded = trainer.store.read_bytes(f"runs/{run_id}/events.jsonl")
    assert recorded is not None and len(recorded.splitlines()) == len(events) - 1  # the first came before the run
    assert b"not an event" in (trainer.store.read_bytes(f"runs/{run_id}/log.txt") or b"")

    (call,) = trainer.calls
    assert "--no-resume" in call["argv"]
    assert call["argv"][call["argv"].index("--output-dir") + 1].startswith(str(trainer.home / "runs" / run_id))
    assert call["env"]["WANDB_NAME"] == run_id.rsplit("-", 1)[0] and call["env"]["WANDB_MODE"] == "offline"
    assert json.loads(call["env"]["PIPPA_LINEAGE"])["run_id"] == run_id
    assert not [name for name in call["env"] if name.startswith("PIPPA_S3_")]
    assert not list(trainer.home.rglob("pending-uploads/*"))


@pytest.mark.slow
def test_a_data_config_of_ones_own_reaches_the_engine_and_a_resumed_run_as_data(trainer, tmp_path):
    ours = replace(DATA_CONFIGS["fourier_gr1_arms_only"], name="ours", action_horizon=8)
    (tmp_path / "robot.toml").write_text(to_toml(ours))
    trainer.pause(7)
    process = trainer.preset("--data-config", "robot.toml", FAKE_EVALUATE="0.125")
    until(lambda: Path(f"{tmp_path / 'go'}.reached").exists())
    (tmp_path / "robot.toml").unlink()
    process.send_signal(signal.SIGTERM)
    assert trainer.finish(process)[0] == 143, trainer.stderr
    trainer.engine.clear()
    assert trainer.finish(trainer.start("--run-id", trainer.run_id))[0] == 0, trainer.stderr
    for call in trainer.calls:
        given = call["argv"][call["argv"].index("--data-config") + 1]
        assert Path(given).parent == trainer.home / "runs" / trainer.run_id and get_data_config(given) == ours
    assert registry.resolve(trainer.store, "smoke/latest").spec.config.data_config == ours


def test_how_the_data_is_read_reaches_engine_and_evaluation_and_is_in_the_lineage(trainer):
    assert trainer.finish(trainer.preset("--video-alignment", "index", "--recompute-statistics"))[0] == 0, (
        trainer.stderr
    )
    (call,) = trainer.calls
    assert call["argv"][-3:] == ["--video-alignment", "index", "--recompute-statistics"]
    (report,) = trainer.home.glob("runs/*/report/open_loop.txt")
    assert "frames by index" in report.read_text()
    config = registry.resolve(trainer.store, "smoke/latest").spec.config
    assert config.video_alignment == "index" and config.recompute_statistics


def test_a_run_that_is_not_to_be_evaluated_is_not_and_its_engine_hears_nothing_of_it(trainer):
    code, events = trainer.finish(trainer.preset("--evaluate", "none", "--holdout", "0.2"))
    assert code == 0, trainer.stderr
    assert "evaluate" not in {event.phase for event in events if event.event == "phase"}
    assert "open_loop_mse" not in registry.resolve(trainer.store, "smoke/latest").metrics
    (call,) = trainer.calls
    assert "--evaluate" not in call["argv"] and call["argv"][call["argv"].index("--holdout") + 1] == "0.2"


def test_what_is_odd_about_a_dataset_is_said_once_and_does_not_stop_it(trainer, tmp_path):
    dataset = Path(shutil.copytree(trainer.dataset, tmp_path / "odd"))
    info = json.loads((dataset / "meta/info.json").read_text())
    (dataset / "meta/info.json").write_text(json.dumps(info | {"total_episodes": 7}))
    code, events = trainer.finish(trainer.preset("--dataset-path", str(dataset)))
    assert code == 0, trainer.stderr
    odd = [event for event in events if isinstance(event, WarningEvent) and "total_episodes" in event.message]
    assert [event.message for event in odd] == ["odd: meta/info.json: total_episodes is 7; meta/episodes.jsonl has 1"]
    assert odd[0].hint


def test_no_secret_leaves_the_process(trainer):
    trainer.engine = {"fail": "leak", "at": 6}
    secret = trainer.settings.secret_key.get_secret_value()
    code, events = trainer.finish(
        trainer.preset(WANDB_API_KEY=WANDB_KEY, WANDB_MODE="offline", HF_TOKEN="hf_" + WANDB_KEY)
    )
    assert code == 7 and "key None" in trainer.stderr  # a run that is recorded offline needs none
    for value in (secret, WANDB_KEY):
        assert value not in trainer.stderr
        assert value not in "".join(event.model_dump_json() for event in events)
        for file in trainer.home.rglob("*"):
            assert not file.is_file() or value.encode() not in file.read_bytes(), file  # W&B leaves a dangling link
        for found in trainer.store.list(""):
            assert value.encode() not in (trainer.store.read_bytes(found.key) or b""), found.key


def test_upstreams_engine_is_followed_by_its_lines(trainer):
    trainer.engine = {"style": "isaac", "keep": 1, "step_seconds": 0.05}
    code, events = trainer.finish(trainer.preset(PIPPA_ENGINE="isaac-uv", FAKE_EVALUATE="fail"))
    assert code == 0, trainer.stderr
    assert trainer.steps[-1] == 20
    progress = [event for event in events if isinstance(event, ProgressEvent)]
    assert progress[-1].step == 20 and progress[-1].loss == pytest.approx(0.05)
    warnings = [event.message for event in events if isinstance(event, WarningEvent)]
    # It deletes a checkpoint as soon as the next one is there, perhaps while that one is looked at.
    (warning,) = [each for each in warnings if "W&B" not in each and "checkpoint-" not in each]
    assert "evaluation failed" in warning and "no policy came out" in warning


def test_a_signal_registers_the_last_checkpoint_and_another_machine_continues(trainer, tmp_path):
    reached = trainer.pause(7)
    process = trainer.preset()
    until(reached.exists)
    process.send_signal(signal.SIGTERM)
    assert trainer.finish(process)[0] == 143
    run_id = trainer.run_id
    assert trainer.steps == [5, 7] and trainer.state().status == "stopped" and trainer.state().exit_code == 143
    trainer.home = tmp_path / "another-machine"
    trainer.engine = {}
    returncode, events = trainer.finish(trainer.start("--run-id", run_id))
    assert returncode == 0, trainer.stderr
    assert "Continuing from step 7." in [event.message for event in events if event.event == "phase"]
    assert "--resume" in trainer.calls[-1]["argv"]
    assert trainer.steps == [5, 7, 10, 15, 20] and trainer.state().status == "done"
    assert resume_points.read(trainer.store, run_id) is None
    recorded = trainer.store.read_bytes(f"runs/{run_id}/events.jsonl") or b""
    assert recorded.count(b'"phase":"train"') == 2  # the story of both machines


@pytest.mark.slow
def test_without_its_training_state_a_step_is_no_place_to_continue_from(trainer, tmp_path):
    reached = trainer.pause(12)
    process = trainer.preset()
    until(reached.exists)
    until(lambda: trainer.steps == [5, 10])
    process.kill()
    process.communicate()
    run_id = trainer.run_id
    resume_points.forget(trainer.store, run_id)
    registered = {entry.step: entry.snapshot for entry in registry.list_checkpoints(trainer.store, run_id)}
    trainer.home, trainer.engine = tmp_path / "another-machine", {}
    code, events = trainer.finish(trainer.start("--run-id", run_id))
    assert code == 0, trainer.stderr
    assert any(
        "Step 10 is registered, but the optimizer's state never reached the store" in e.message
        for e in events
        if isinstance(e, WarningEvent)
    )
    assert "Starting the engine (native)." in [event.message for event in events if event.event == "phase"]
    now = {entry.step: entry.snapshot for entry in registry.list_checkpoints(trainer.store, run_id)}
    assert sorted(now) == [5, 10, 15, 20] and {step: now[step] for step in registered} == registered

    trainer.home = tmp_path / "a-third-machine"  # which only has to evaluate
    code, events = trainer.finish(trainer.start("--run-id", run_id))
    assert code == 0 and not [event for event in events if isinstance(event, (ProgressEvent, WarningEvent))]
    assert trainer.state().step == 20 and trainer.state().metrics["loss"]


@pytest.mark.slow
def test_a_job_whose_machine_is_lost_for_good_goes_on_by_the_same_command_on_an_empty_one(trainer, tmp_path):
    job, reached = ("--job", "sky-managed-7"), trainer.pause(12)
    process = trainer.preset(*job)
    until(reached.exists)
    run_id = trainer.run_id
    reported = 12  # all it reports while it stands there
    until(lambda: trainer.steps == [5, 10] and trainer.state().step == reported)
    trainer_process = psutil.Process(process.pid)
    kill_at_once([trainer_process, *trainer_process.children(recursive=True)])
    process.communicate()
    shutil.rmtree(trainer.home)
    # The training state goes up less often than checkpoints.
    point = resume_points.read(trainer.store, run_id)

    trainer.home, trainer.engine = tmp_path / "an-empty-machine", {}
    code, events = trainer.finish(trainer.preset(*job))
    assert code == 0, trainer.stderr
    assert trainer.run_id == run_id and trainer.steps == [5, 10, 15, 20]
    begun = [event.message for event in events if event.event == "phase"]
    assert (f"Continuing from step {point.step}." if point else "Starting the engine (native).") in begun
    again = reported - (point.step if point else 0)
    assert f"{again} steps are trained again: {reported} was reported last." in begun

    assert trainer.finish(trainer.preset(*job)) == (0, []) and f"{run_id} is done" in trainer.stderr
    code, _ = trainer.finish(trainer.preset(*job, "--learning-rate", "5e-3"))
    assert code == 2 and "with other arguments" in trainer.stderr


def test_a_killed_trainer_leaves_no_engine_and_its_run_can_be_continued(trainer):
    reached = trainer.pause(12)
    process = trainer.preset()
    until(reached.exists)
    engine = psutil.Process(process.pid).children()
    assert engine
    process.kill()
    process.communicate()
    trainer.engine = {}
    code, events = trainer.finish(trainer.start("--run-id", trainer.run_id))
    assert code == 0, trainer.stderr
    assert not [child for child in engine if alive(child)]
    # The engine, alone, saved step 12 and ended; only then the second trainer touched the folder.
    assert "Continuing from step 12." in [event.message for event in events if event.event == "phase"]
    assert trainer.steps == [5, 10, 12, 15, 20]


@pytest.mark.slow
def test_a_checkpoint_half_saved_by_a_killed_engine_is_removed(trainer):
    trainer.engine = {"style": "isaac", "fail": "half-saved", "at": 15}
    code, events = trainer.finish(trainer.preset(PIPPA_ENGINE="isaac-uv"))
    assert code == 7 and trainer.steps == [5, 10]
    assert any("checkpoint-15 is not a whole checkpoint" in str(event) for event in events)
    trainer.engine = {"style": "isaac"}
    code, events = trainer.finish(trainer.start("--run-id", trainer.run_id))
    assert code == 2 and "is a run of the engine isaac-uv" in str(events[-1])
    code, events = trainer.finish(trainer.start("--run-id", trainer.run_id, PIPPA_ENGINE="isaac-uv"))
    assert code == 0, trainer.stderr
    assert "Continuing from step 10." in [event.message for event in events if event.event == "phase"]
    assert trainer.steps == [5, 10, 15, 20]


@pytest.mark.slow
def test_a_checkpoint_the_disk_does_not_let_be_read_is_neither_removed_nor_left_out(trainer):
    reached = trainer.pause(7)
    process = trainer.preset()
    until(reached.exists)
    process.send_signal(signal.SIGTERM)
    assert trainer.finish(process)[0] == 143
    (state,) = trainer.home.rglob("checkpoint-7/trainer_state.json")
    content = state.read_text()
    state.unlink()
    state.symlink_to(state)  # which nobody can read, root neither
    trainer.engine = {}
    code, events = trainer.finish(trainer.start("--run-id", trainer.run_id))
    assert code == 2 and "checkpoint-7/trainer_state.json can't be read" in str(events[-1])
    state.unlink()
    state.write_text(content)
    code, events = trainer.finish(trainer.start("--run-id", trainer.run_id))
    assert code == 0, trainer.stderr
    assert "Continuing from step 7." in [event.message for event in events if event.event == "phase"]


def test_the_store_may_be_away_during_the_training(trainer):
    host, _, port = trainer.settings.host.partition(":")
    with proxy(host, int(port)) as way:
        reached = trainer.pause(11)
        process = trainer.preset("--save-steps", "3", PIPPA_S3_ENDPOINT=f"http://127.0.0.1:{way.port}")
        until(lambda: (trainer.home / "runs").is_dir() and 3 in trainer.steps)
        way.cut()
        until(reached.exists)
        Path(str(reached).removesuffix(".reached")).touch()
        (output,) = (trainer.home / "runs" / trainer.run_id).glob("gr00t-*")
        until(lambda: 20 in checkpoints(output))
        way.mend()
        code, events = trainer.finish(process)
    assert code == 0, trainer.stderr
    assert trainer.steps == [3, 6, 9, 12, 15, 18, 20]
    assert len([event for event in events if isinstance(event, WarningEvent) and "uploaded yet" in event.message]) <= 1


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("disk", 6, "PIPPA_HOME"),
        ("reported", 3, "frame missing at step 6"),
    ],
)
def test_an_engine_that_fails(trainer, how, code, says):
    trainer.engine = {"fail": how, "at": 6}
    returncode, events = trainer.finish(trainer.preset())
    assert returncode == code, trainer.stderr
    error = events[-1]
    assert isinstance(error, ErrorEvent) and error.code == code and says in f"{error.message}\n{error.hint}"
    assert says in trainer.stderr
    assert trainer.steps == [5]  # what was saved before is kept
    assert (trainer.state().status, trainer.state().exit_code) == ("failed", code)
    assert says in (trainer.state().message + error.hint)


def test_bad_input_is_refused_before_anything_starts(trainer, tmp_path, synthetic):
    broken = shutil.copytree(synthetic, tmp_path / "broken")
    (broken / "meta" / "modality.json").unlink()
    cases: list[tuple[list[str], dict[str, str], int, str]] = [
        (["smok"], {}, 2, "Did you mean smoke?"),
        (["smoke", "--tune-llm", "false"], {}, 2, "write --no-tune-llm"),
        (["--run-id", "smoke-20260101-000000-abcd"], {}, 2, "smoke-20260101-000000-abcd"),
        (["smoke", "--dataset-path", "synthetc.PickNPlace"], {}, 2, "Did you mean synthetic.PickNPlace?"),
        (["smoke", "--dataset-path", str(broken), "--base-model-path", str(trainer.model)], {}, 3, "modality.json"),
        (["smoke"], {"PIPPA_S3_SECRET_KEY": "wrong"}, 4, "PIPPA_S3"),
    ]
    processes = [(trainer.start(*arguments, **environ), code, says) for arguments, environ, code, says in cases]
    for (process, code, says), (arguments, *_) in zip(processes, cases, strict=True):
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, (arguments, out)
        error = parse_event(out.splitlines()[-1])
        assert isinstance(error, ErrorEvent) and error.code == code
        assert says in f"{error.message}\n{error.hint}", arguments
        assert "Traceback" not in out
    assert not (tmp_path / "calls").exists()  # no engine was started
    assert snapshots.latest(trainer.store, "dataset", "broken") is None


def test_a_store_that_is_down_is_exit_code_4(trainer, monkeypatch, capsys):
    monkeypatch.setattr("trainer.store.stores.S3Store", functools.partial(S3Store, patience=0.0))
    monkeypatch.setenv("PIPPA_S3_ENDPOINT", "http://127.0.0.1:9")
    for name, value in trainer.settings.to_environ().items():
        if name != "PIPPA_S3_ENDPOINT":
            monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["run", "smoke"])
    assert exit_.value.code == 4
    out, err = capsys.readouterr()
    error = parse_event(out.splitlines()[-1])
    assert isinstance(error, ErrorEvent) and "127.0.0.1:9" in error.message and error.hint
    assert "127.0.0.1:9" in err and "Traceback" not in err


@pytest.mark.slow
def test_an_output_folder_of_another_training_is_not_taken_over(trainer, tmp_path):
    output = tmp_path / "mine"
    output.mkdir()
    write(output / "checkpoint-20", 20)
    code, events = trainer.finish(trainer.preset("--output-dir", str(output)))
    assert code == 2 and "another training" in str(events[-1])
    code, events = trainer.finish(trainer.preset("--output-dir", str(output), "--max-steps", "25", "--resume"))
    assert code == 0, trainer.stderr
    assert [event.step for event in events if isinstance(event, CheckpointEvent)] == [25]
    code, events = trainer.finish(trainer.preset("--resume"))
    assert code == 2 and "there is no checkpoint in" in str(events[-1])


def test_an_engine_without_its_command_is_not_replaced_by_our_own(trainer):
    code, events = trainer.finish(trainer.preset(PIPPA_ENGINE="isaac-uv", PIPPA_FINETUNE_COMMAND=""))
    assert code == 2 and "PIPPA_FINETUNE_COMMAND" in str(events[-1])
    assert not (trainer.home / "runs").exists()


def test_the_setting_stands_in_for_a_base_model_left_open(trainer):
    flags = ("--max-steps", "2", "--save-steps", "2", "--dataset-path", str(trainer.dataset))
    code, _ = trainer.finish(trainer.start("smoke", *flags, PIPPA_BASE_MODEL=str(trainer.model)))
    assert code == 0, trainer.stderr
    assert runs.read_spec(trainer.store, trainer.run_id).config.base_model_path == str(trainer.model)
