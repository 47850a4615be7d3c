"""Where the curves go, with and without a run spec, a key, a package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import wandb

from tests.support.training import Training
from tests.support.wandb_files import config_of, history_of, records
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.n17_config import N17Config
from trainer.config.presets import get_preset
from trainer.config.run_spec import RunSpec, SnapshotRef, new_run_id
from trainer.data.n17.embodiments import registered
from trainer.errors import UsageError
from trainer.events import WarningEvent
from trainer.runner.wandb_setup import default_wandb, wandb_environment
from trainer.training.reporting import reporting

MakeTraining = Callable[..., Training]


@pytest.fixture(autouse=True)
def no_wandb_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No run continues into the next test, and no key of this machine is used."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_DIR", "PIPPA_LINEAGE"):
        monkeypatch.setenv(name, "")  # recorded first, so that what a test sets is undone as well
        monkeypatch.delenv(name)
    wandb.teardown()  # what an earlier test's process-wide setup has read of the environment
    yield
    wandb.teardown()


def test_nothing_is_recorded_where_w_and_b_is_not_asked_for(tmp_path: Path) -> None:
    config = N17Config(dataset_path=["-"], data_config=registered()["so100"], use_wandb=False)
    assert reporting(config, tmp_path, lambda _: None) == [] and not list(tmp_path.iterdir())


def test_with_a_spec_the_run_has_its_configuration_and_lineage(
    training: MakeTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = get_preset("smoke")
    run_id = new_run_id("smoke", datetime(2026, 11, 22, tzinfo=UTC))
    ref = SnapshotRef(kind="dataset", name="synthetic", digest="a" * 64)
    spec = RunSpec(
        run_id=run_id,
        preset="smoke",
        config=preset.config,
        provenance={},
        datasets=[ref],
        base_model=ref,
        wandb=default_wandb(preset, run_id, {"WANDB_ENTITY": "us"}),
    )
    for part, steps in (("first", 10), ("resumed", 20)):
        folder = tmp_path / part
        folder.mkdir()
        variables, _ = wandb_environment(spec, folder, {"WANDB_MODE": "offline"})
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        run = training("run", max_steps=steps, save_steps=10, report_to="wandb", batch_size=1)
        assert run.run(resume=part == "resumed") == 0
        wandb.finish()
        found = records(folder)
        (recorded,) = [record.run for record in found if record.HasField("run")]
        assert (recorded.run_id, recorded.display_name) == (run_id, spec.wandb.name)
        assert (recorded.project, recorded.entity, recorded.run_group) == ("pippa", "us", "smoke")
        assert list(recorded.tags) == list(preset.wandb_tags)
        config = config_of(found)
        assert config["lineage"]["datasets"] == [str(ref)]
        assert config["lineage"]["run_id"] == run_id
        assert config["data_config"] == preset.config.data_config
        assert history_of(found, "train/global_step")[0] == steps
        assert len(history_of(found, "train/loss")) == 1


def test_alone_and_without_a_key_it_records_offline(training: MakeTraining) -> None:
    alone = training("alone", report_to="wandb", max_steps=2)
    assert alone.run() == 0
    wandb.finish()
    warnings = [event for event in alone.events if isinstance(event, WarningEvent)]
    (warning,) = [event for event in warnings if "W&B" in event.message]
    assert "no W&B key" in warning.message
    assert "offline" in warning.message
    (recorded,) = [record.run for record in records(alone.output_dir) if record.HasField("run")]
    assert recorded.display_name == "alone"

    continued = training("alone", report_to="wandb", max_steps=3)
    (first,) = alone.output_dir.glob("wandb/offline-run-*")
    first.rename(alone.output_dir / "first")
    assert continued.run(resume=True) == 0
    wandb.finish()
    (again,) = [record.run for record in records(alone.output_dir) if record.HasField("run")]
    assert again.run_id == recorded.run_id


def test_azure_ml_without_its_package_is_a_usage_error(tmp_path: Path) -> None:
    config = FinetuneConfig(dataset_path=["x"], report_to="azure_ml")
    with pytest.raises(UsageError, match="azureml-mlflow"):
        reporting(config, tmp_path, lambda event: None)


def test_only_the_first_rank_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert reporting(FinetuneConfig(dataset_path=["x"]), tmp_path, lambda event: None) == []
