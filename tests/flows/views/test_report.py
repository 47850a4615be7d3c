from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from flows.views.report import build_report, next_command, print_report, to_markdown
from trainer.config.presets import PRESETS
from trainer.config.run_spec import RunSpec, SnapshotRef, WandbSpec
from trainer.errors import UsageError
from trainer.store import registry, runs, snapshots

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
