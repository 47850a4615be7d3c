"""`trainer evaluate --checkpoint NAME`: from the registry, into the registry."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.registered import another, tiny_checkpoint
from trainer.config.run_spec import new_run_id
from trainer.errors import UsageError
from trainer.evaluation.recorded import RecordedEpisode, strip_name
from trainer.evaluation.registered import RegisteredOptions, evaluate_registered
from trainer.evaluation.run import RunOptions, evaluate_run
from trainer.evaluation.verdict import on_common
from trainer.events import Emitter, EvaluationEvent, parse_event
from trainer.gr00t.policy import Policy
from trainer.store import registry, runs
from trainer.store.manifest import blob_key, read_manifest
from trainer.store.object_store import ObjectStore


@pytest.fixture
def entry(object_store: ObjectStore, tmp_path: Path) -> registry.CheckpointEntry:
    return tiny_checkpoint(object_store, tmp_path)


def evaluate(store_environ: dict[str, str], home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **store_environ, "PIPPA_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trainer.cli", "evaluate", *flags]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_what_the_run_would_measure_joins_its_metrics(entry, object_store, s3_settings, tmp_path, monkeypatch):
    done = evaluate(s3_settings.to_environ(), tmp_path / "home", "--checkpoint", "smoke/latest")
    assert done.returncode == 0, done.stderr
    [event] = [e for line in done.stdout.splitlines() if isinstance(e := parse_event(line), EvaluationEvent)]
    kept = registry.resolve(object_store, entry.name)
    assert event.step == 30 and kept.metrics == event.metrics and kept.metrics["open_loop_mse"] > 0
    assert (event.checkpoint, event.on, event.full) == (entry.name, "2 training episodes", True)
    found = kept.evaluation
    assert found is not None and found.metrics() == kept.metrics and found.dataset == entry.spec.datasets[0]
    assert len(found.joints) == 26 and len({each.hash for each in found.episodes}) == 2
    assert {each.input for each in found.ablations} == {"instruction", "camera.ego_view", "state"}
    # It was never trained, and is worse than holding still.
    assert found.mse > found.hold_still_mse and "smoke/best" not in registry.aliases(object_store)
    report = runs.list_files(object_store, entry.run_id, "report")
    assert "report/checkpoint-30/evaluation.json" in report and any(name.endswith("_0.png") for name in report)

    # Another stretch of the data is another measurement, and never decides which checkpoint is the best.
    for name, value in {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    evaluate_registered(RegisteredOptions(checkpoint=(entry.name,), trajs=1), Emitter(io.StringIO()))
    both = registry.resolve(object_store, entry.name).metrics
    assert both["open_loop_mse"] == kept.metrics["open_loop_mse"] and "open_loop_mse@trajs-1" in both
    assert registry.resolve(object_store, entry.name).evaluation == found
    content = runs.read_file(object_store, entry.run_id, "report/checkpoint-30@trajs-1/evaluation.json")
    assert content is not None and len(json.loads(content)["episodes"]) == 1


def test_every_checkpoint_of_a_run_is_evaluated_the_last_one_in_full(
    entry, object_store, s3_settings, tmp_path, monkeypatch
):
    another(entry, object_store, tmp_path, 60)
    for name, value in {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    printed = io.StringIO()
    options = RunOptions(run=entry.run_id, output_dir=tmp_path / "nothing-here", report_dir=tmp_path / "report")
    found = evaluate_run(options, Emitter(printed))
    events = [e for line in printed.getvalue().splitlines() if isinstance(e := parse_event(line), EvaluationEvent)]
    assert {event.step: event.metrics for event in events} == {step: each.metrics() for step, each in found.items()}
    kept = {each.step: each.evaluation for each in registry.list_checkpoints(object_store, entry.run_id)}
    assert kept == found and found[60].full
    best = min(found, key=lambda step: on_common(found)[step])
    assert found[best].full and found[best].ablations
    if best == 60:
        assert not found[30].full
    report = json.loads((tmp_path / "report/evaluations.json").read_text())
    assert report["verdict"]["level"] == "not" and set(report["checkpoints"]) == {"30", "60"}
    assert (tmp_path / "report/open_loop_episode_0.png").is_file()
    # What the page of the run is drawn from.
    recorded = RecordedEpisode.model_validate_json((tmp_path / "report/open_loop_episode_0.json").read_bytes())
    assert [each.name for each in recorded.joints] == [each.name for each in found[60].joints]
    errors = [(d - p) ** 2 for each in recorded.joints for d, p in zip(each.demonstrated, each.predicted, strict=True)]
    assert sum(errors) / len(errors) == pytest.approx(recorded.mse, rel=1e-3)
    assert recorded.cameras == ["ego_view"] and recorded.shown == recorded.asked
    assert (tmp_path / "report" / strip_name(0, 0)).is_file()
    # What was pulled for it is gone, the dataset stays in the cache.
    assert not list((tmp_path / "home/tmp").iterdir()) and not (tmp_path / "home/cache/checkpoint").exists()


@pytest.mark.slow
def test_a_checkpoint_that_is_damaged_costs_its_own_evaluation_alone(
    entry, object_store, s3_settings, tmp_path, monkeypatch
):
    another(entry, object_store, tmp_path, 60)
    later = read_manifest(object_store, registry.resolve(object_store, f"{entry.run_id}/60").snapshot)
    weights = {each.sha256 for each in read_manifest(object_store, entry.snapshot).files}
    own = weights - {each.sha256 for each in later.files}
    object_store.delete(blob_key(next(iter(own))))
    for name, value in {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    printed = io.StringIO()
    options = RunOptions(run=entry.run_id, output_dir=tmp_path / "nothing-here", report_dir=tmp_path / "report")
    assert set(evaluate_run(options, Emitter(printed))) == {60}
    assert "Step 30 was not evaluated" in printed.getvalue()


def test_an_excluded_episode_is_evaluated_only_where_its_number_is_named(
    entry, object_store, s3_settings, tmp_path, monkeypatch
):
    for name, value in {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    config = entry.spec.config.model_copy(update={"exclude_episodes": ["0"]})
    without = entry.model_copy(update={"spec": entry.spec.model_copy(update={"config": config})})
    object_store.write_json(entry.key, without.model_dump(mode="json"))

    def episodes(**options: object) -> list[int]:
        printed, asked = io.StringIO(), {"checkpoint": (entry.name,), "steps": 4, "ablations": False, **options}
        evaluate_registered(RegisteredOptions.model_validate(asked), Emitter(printed))
        events = [parse_event(line) for line in printed.getvalue().splitlines()]
        (evaluation,) = [event.evaluation for event in events if isinstance(event, EvaluationEvent)]
        assert evaluation is not None
        return [each["episode"] for each in evaluation["episodes"]]

    assert episodes() == [1] and episodes(episodes=(0,)) == [0]


def test_a_policy_is_loaded_by_its_name_in_the_registry(entry, s3_settings, tmp_path, monkeypatch):
    for name, value in {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    policy = Policy("smoke/latest", device="cpu")  # an entry of an earlier pippa: its lineage has the data config
    assert policy.data_config.name == "fourier_gr1_arms_only"
    with pytest.raises(UsageError, match="There is no checkpoint"):
        Policy("smoke/best", device="cpu")
    with pytest.raises(UsageError, match="was trained with the data config fourier_gr1_arms_only"):
        Policy(entry.name, "so100", device="cpu")


def test_a_module_that_a_spec_names_is_not_run(entry, object_store, s3_settings, tmp_path):
    """Who writes into a store decides what is evaluated, not what code runs where it is read."""
    config = entry.spec.config.model_copy(update={"data_config": "antigravity:fly"})
    run_id = new_run_id("smoke")
    spec = entry.spec.model_copy(update={"config": config, "run_id": run_id})
    runs.write_spec(object_store, spec)
    registry.register(object_store, entry.model_copy(update={"run_id": run_id, "spec": spec}))
    done = evaluate(s3_settings.to_environ(), tmp_path / "home", "--checkpoint", run_id)
    assert done.returncode == 2 and "antigravity:fly, a Python module, which is not run from a store" in done.stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--checkpoint", "nobody/best"), "nobody/best"),
        (("--checkpoint", "latest", "--dataset", "elsewhere"), "elsewhere"),
    ],
)
def test_unknown_names_are_said_before_anything_is_loaded(entry, s3_settings, tmp_path, flags, named):
    done = evaluate(s3_settings.to_environ(), tmp_path / "home", *flags)
    assert done.returncode == 2 and named in done.stderr and not (tmp_path / "home" / "cache").exists()
