"""``trainer run`` around upstream's command line and output directory, by the stand-in and without a container."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from flows.views.dry_run import upstream_command_text
from tests.support.isaac.expected import FLAGS, check_run, events_of
from tests.support.lerobot_v3 import to_v3
from tests.support.waiting import PATIENCE, until
from trainer.config.argv import resolve, to_argv
from trainer.config.finetune_config import OWN_FIELDS, UPSTREAM_DEFAULTS, FinetuneConfig
from trainer.config.presets import PRESETS
from trainer.data.config_file import to_toml
from trainer.data.configs import DATA_CONFIGS
from trainer.data.synthetic import make_synthetic
from trainer.generation import N15
from trainer.runner.checkpoint_folder import checkpoints
from trainer.store import registry, runs
from trainer.store.manifest import read_manifest

UPSTREAM = Path(__file__).parents[2] / "support" / "isaac" / "upstream"
FINETUNE = UPSTREAM / "scripts" / "gr00t_finetune.py"


@pytest.fixture
def environ(bucket, tmp_path) -> dict[str, str]:
    evaluate = [sys.executable, "-m", "trainer.evaluation.upstream", sys.executable]
    return {
        **{name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ},
        **bucket.to_environ(),
        "HOME": str(tmp_path),
        "PIPPA_HOME": str(tmp_path / "home"),
        "PIPPA_ENGINE": "isaac-uv",
        "PIPPA_FINETUNE_COMMAND": f"{sys.executable} {FINETUNE}",
        "PIPPA_EVALUATE_COMMAND": " ".join([*evaluate, str(UPSTREAM / "scripts" / "eval_policy.py")]),
        "PYTHONPATH": os.pathsep.join([str(UPSTREAM), str(UPSTREAM.parents[3])]),
    }


def start(environ: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer.cli", "run", *arguments]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_whole_run_is_like_a_native_one(store, environ, tmp_path):
    out, err = (process := start(environ, "smoke", *FLAGS)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    run_id = check_run(store, events_of(out), "isaac-uv", tmp_path)
    log = (tmp_path / "home" / "runs" / run_id / "log.txt").read_text()
    assert "Average MSE across all trajs: 0.03" in log and "| 12/30 [" not in log


def test_a_dataset_in_lerobot_v3_is_converted_for_it(store, environ, tmp_path):
    recording = to_v3(make_synthetic(tmp_path / "v2", episodes=2), tmp_path / "v3")
    flags = [*FLAGS, "--max-steps", "10", "--evaluate", "last", "--dataset-path", str(recording)]
    out, err = (process := start(environ, "smoke", *flags)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    events = events_of(out)
    assert [event.step for event in events if event.event == "checkpoint"] == [10]
    assert [event.step for event in events if event.event == "evaluation"] == [10]
    (run,) = (tmp_path / "home" / "runs").iterdir()
    log = (run / "log.txt").read_text()
    assert "Converting v3 from LeRobot v3.0 to v2.1" in log and f"--dataset-path {run}/datasets/0" in log
    assert not (run / "datasets").exists()
    (ref,) = runs.read_spec(store, run.name).datasets
    assert "meta/tasks.parquet" in [file.path for file in read_manifest(store, ref).files]


@pytest.mark.slow
def test_a_stopped_run_continues_from_its_last_checkpoint(store, environ, tmp_path):
    process = start({**environ, "STANDIN_HANGS_AT": "15"}, "smoke", *FLAGS)
    folders = tmp_path / "home" / "runs"
    until(lambda: list(folders.glob("*/*/checkpoint-10/experiment_cfg")))
    (run,) = folders.iterdir()
    until(lambda: registry.list_checkpoints(store, run.name))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    kept = [entry.step for entry in registry.list_checkpoints(store, run.name)]
    (output,) = run.glob("gr00t-*")
    assert kept == [10]  # upstream saves nothing on a stop signal
    assert set(checkpoints(output)) == {10}

    out, err = (process := start(environ, "--run-id", run.name)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "--resume" in (run / "log.txt").read_text()
    assert [event.step for event in events_of(out) if event.event == "checkpoint"] == [20, 30]
    state = runs.read_state(store, run.name)
    assert state is not None and state.status == "done"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataloader-num-workers", "0"], "prefetch factor"),
        (["--report-to", "azure_ml"], "no Azure ML"),
        (["--data-config", "arm.toml"], "--data-config arm: upstream's own data configs are classes"),
    ],
)
def test_what_upstream_would_fail_on_is_refused_at_once(environ, tmp_path, flags, says):
    (tmp_path / "arm.toml").write_text(
        to_toml(dataclasses.replace(DATA_CONFIGS["so100"], name="arm", action_horizon=8))
    )
    flags = [str(tmp_path / flag) if flag == "arm.toml" else flag for flag in flags]
    out, err = (process := start(environ, "smoke", *flags)).communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert says in err and "--engine native" in err
    assert [event.event for event in events_of(out)] == ["error"]
    assert not (tmp_path / "home").exists()


OF_N15 = [name for name, preset in PRESETS.items() if preset.kind.generation == N15]
"""The images of upstream's engine are of N1.5."""


@pytest.fixture
def upstream_arguments(monkeypatch) -> type:
    monkeypatch.syspath_prepend(UPSTREAM)
    spec = importlib.util.spec_from_file_location("gr00t_finetune", FINETUNE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gr00t_finetune", module)  # where its annotations are looked up
    spec.loader.exec_module(module)
    return module.ArgsConfig


def test_the_stand_in_has_upstreams_fields_and_defaults(upstream_arguments):
    fields = {name: field for name, field in FinetuneConfig.model_fields.items() if name not in OWN_FIELDS}
    ours = {name: UPSTREAM_DEFAULTS.get(name, field.default) for name, field in fields.items()}
    theirs = {field.name: field.default for field in dataclasses.fields(upstream_arguments)}
    assert list(theirs) == list(ours)
    assert {name: value for name, value in theirs.items() if name != "dataset_path"} == {
        name: value for name, value in ours.items() if name != "dataset_path"
    }


@pytest.mark.parametrize("name", OF_N15)
def test_upstreams_parser_reads_what_the_image_gives_it(upstream_arguments, name):
    parsed = tyro.cli(upstream_arguments, args=to_argv(PRESETS[name].config))
    assert dataclasses.asdict(parsed) == PRESETS[name].config.model_dump(exclude=set(OWN_FIELDS))


@pytest.mark.parametrize("name", OF_N15)
def test_the_recipes_command_means_the_preset(upstream_arguments, name):
    _, config, provenance = resolve(name, [])
    lines = [line for line in upstream_command_text(config, provenance).splitlines() if not line.startswith("#")]
    program, script, *argv = " ".join(line.removesuffix("\\") for line in lines).split()
    assert (program, script) == ("python", "scripts/gr00t_finetune.py")
    parsed = dataclasses.asdict(tyro.cli(upstream_arguments, args=argv))
    # What it leaves to upstream's defaults, and where the dataset lies, are all that may look different.
    (dataset,) = parsed.pop("dataset_path")
    assert dataset == "./demo_data/" + config.dataset_path[0].split("/")[-1]
    assert parsed == config.model_dump(exclude={"dataset_path", *OWN_FIELDS})
