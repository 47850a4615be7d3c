from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from flows.views.report import build_report, next_command, print_report, to_markdown
from tests.support.evaluations import evaluation
from trainer.config.presets import PRESETS
from trainer.config.run_spec import RunSpec, SnapshotRef, WandbSpec
from trainer.errors import UsageError
from trainer.store import registry, runs, snapshots
from trainer.store.evaluation import Ablation

RUN = "smoke-20260101-000000-abcd"
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def spec() -> RunSpec:
    return RunSpec(
        run_id=RUN,
        preset="smoke",
        config=PRESETS["smoke"].config.model_copy(update={"max_steps": 120}),
        provenance={"max_steps": "flag"},
        datasets=[SnapshotRef(kind="dataset", name="synthetic.PickNPlace", digest="d" * 64)],
        base_model=SnapshotRef(kind="model", name="tiny", digest="b" * 64),
        wandb=WandbSpec(entity="wild-ai", project="pippa", name="smoke", run_id=RUN, group="smoke"),
        created=START,
    )


@pytest.fixture
def recorded(object_store, spec, tmp_path):
    """A run with two checkpoints; tells how it ended."""

    def record(status: str = "done", message: str = "") -> None:
        runs.write_spec(object_store, spec)
        events: list[dict[str, object]] = [
            {"event": "progress", "step": 1, "of": 120, "loss": 1.5},
            {"event": "progress", "step": 2, "of": 120},
            {"event": "progress", "step": 120, "of": 120, "loss": 0.25},
            {"event": "warning", "message": "W&B is offline"},
            {"event": "warning", "message": "W&B is offline"},
        ]
        for step in (30, 120):
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir()
            (folder / "weights").write_text(str(step))
            ref = snapshots.push(object_store, folder, "checkpoint", RUN).ref
            registry.register(object_store, registry.CheckpointEntry(run_id=RUN, step=step, snapshot=ref, spec=spec))
            events.append(
                {"event": "checkpoint", "step": step, "digest": ref.digest, "bytes_uploaded": 3, "seconds": 1}
            )
        if status == "failed":
            events.append({"event": "error", "code": 6, "message": message, "hint": "make room"})
        text = "\n".join(json.dumps({"time": START.isoformat(), **event}) for event in events)
        runs.write_file(object_store, RUN, "events.jsonl", text.encode())
        state = runs.RunState.model_validate(
            {
                "status": status,
                "message": message,
                "step": 120,
                "of": 120,
                "started": START,
                "ended": START + timedelta(seconds=75),
                "metrics": {"open_loop_mse": 0.02, "action_variance": 0.2},
            }
        )
        runs.write_state(object_store, RUN, state)

    return record


def printed(report) -> str:
    file = io.StringIO()
    print_report(Console(file=file, width=120, highlight=False), report)
    return file.getvalue()


def test_the_summary_has_what_a_person_needs(object_store, recorded, tmp_path):
    recorded()
    plots = tmp_path / "runs" / RUN / "report"
    plots.mkdir(parents=True)
    (plots / "episode-0.png").touch()
    runs.write_file(object_store, RUN, "wandb/offline-run-x/run.wandb", b"x")
    report = build_report(object_store, RUN, tmp_path)
    for text in (printed(report), to_markdown(report)):
        for word in (
            "10% of the actions' variance: it follows the demonstrations",
            "120 of 120 steps of smoke: projector, diffusion model",
            f"synthetic.PickNPlace@{'d' * 12}",
            f"tiny@{'b' * 12}",
            "1.5000 → 0.2500",
            "0.02 (variance of the demonstrated actions: 0.2)",
            "1:15",
            f"{RUN}/30",
            "latest, smoke/latest",
            "episode-0.png",
            f"pippa runs sync {RUN}",
            f"pippa checkpoints pull {RUN}/120",
        ):
            assert word in text, word
    assert report.warnings == ["W&B is offline"]


def test_elsewhere_the_plots_are_in_the_store(object_store, recorded, tmp_path):
    recorded()
    runs.write_file(object_store, RUN, "report/episode-0.png", b"png")
    report = build_report(object_store, RUN, tmp_path)
    assert report.plots == [f"runs/{RUN}/report/episode-0.png"] and "in the object store" in report.log


@pytest.mark.parametrize(("status", "word"), [("failed", "failed"), ("stopped", "stopped")])
def test_what_did_not_end_well_says_how_to_go_on(object_store, recorded, tmp_path, status, word):
    recorded(status, "No space left" if status == "failed" else "Stopped by a signal.")
    report = build_report(object_store, RUN, tmp_path)
    assert word in report.verdict and next_command(report) == f"pippa runs resume {RUN}"
    for text in (printed(report), to_markdown(report)):
        assert f"pippa runs resume {RUN}" in text
        assert ("No space left" in text and "make room" in text) == (status == "failed")


def test_a_run_that_has_said_nothing_yet_has_a_report(object_store, spec, tmp_path):
    runs.write_spec(object_store, spec)
    report = build_report(object_store, RUN, tmp_path)
    assert report.status == "preparing" and "none" in printed(report)


def test_an_unknown_run_is_an_error(object_store, tmp_path):
    with pytest.raises(UsageError, match="smoke-20260101-000000-ffff"):
        build_report(object_store, "smoke-20260101-000000-ffff", tmp_path)


def evaluated(object_store, figures: dict[int, dict[str, float]], **changes) -> None:
    for step, errors in figures.items():
        found = evaluation(errors, dataset="synthetic.PickNPlace", full=step == 120, **changes)
        registry.add_metrics(object_store, RUN, step, found.metrics(), found)


def test_a_cross_is_a_cross_with_reasons_and_what_to_do(recorded, object_store, tmp_path):
    recorded()
    ignored = Ablation(input="instruction", change="swapped", mse=1.2, relative=0.004)
    evaluated(object_store, {30: {"a": 2.0}, 120: {"a": 1.2, "b": 1.4}}, variance=4.0, ablations=[ignored])
    report = build_report(object_store, RUN, tmp_path / "home")
    for text in (printed(report), to_markdown(report)):
        assert "holding still predicts the demonstrations as well (checkpoint 120, on 2 training episodes)." in text
        assert "The open-loop error is 130% of the error of holding still and 32% of the error of" in text
        assert "still improving at the end: 2 at step 30, 1.2 at 120" in text
        assert "Ignores the instruction: swapping it changes the error by 0.4%." in text
        assert "Train longer: raise --max-steps above 120." in text
    assert "✗" in printed(report) and "✓" not in printed(report)
    assert "smoke/best" not in registry.aliases(object_store)


def test_the_checkpoint_to_take_is_the_best_not_the_last(recorded, object_store, tmp_path):
    recorded()
    evaluated(object_store, {30: {"a": 0.2, "b": 0.2}, 120: {"a": 0.4, "b": 0.5}})
    found = evaluation({"a": 0.2, "b": 0.2}, dataset="synthetic.PickNPlace")
    registry.add_metrics(object_store, RUN, 30, found.metrics(), found)
    report = build_report(object_store, RUN, tmp_path / "home")
    shown = printed(report)
    assert "✓ It has learned the task" in shown and "It got worse since step 30" in shown and "Take step 30." in shown
    assert next_command(report) == f"pippa checkpoints pull {RUN}/30 ./smoke-checkpoint"
    assert f"decided on 2 episodes that both were trained on: 0.2 instead of 0.45 of {RUN}/120" in shown
