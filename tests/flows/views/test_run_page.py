"""The page of a run, from records as hostile and as large as they may be."""

from __future__ import annotations

import base64
import json
import math
import random
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from flows.views.report import build_report, to_markdown
from flows.views.run_facts import curve_of, seconds_by_phase
from flows.views.run_markdown import illustrated, without_pictures
from flows.views.run_page import build_page
from tests.support.evaluations import evaluation
from trainer.config.presets import PRESETS
from trainer.config.run_spec import RunSpec, WandbSpec
from trainer.errors import UsageError
from trainer.evaluation.recorded import RecordedEpisode, RecordedJoint, episode_name, strip_name
from trainer.events import Event, PhaseEvent, ProgressEvent
from trainer.store import registry, runs, snapshots
from trainer.store.evaluation import Ablation, JointFigures

RUN = "smoke-20260101-000000-abcd"
START = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = """<script>alert(1)</script>"><img src=x onerror='alert(2)'>{{ 7*7 }}$\\frac$</style>"""


class Read(HTMLParser):
    """What a browser would do with a page: its tags, what it would load, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def run_of(store, tmp_path, robot: str = "SO-101", task: str = "pick the pear") -> RunSpec:
    """The spec of a run whose dataset and base model are in the store, and its record."""
    data, model = tmp_path / "data", tmp_path / "model"
    (data / "meta").mkdir(parents=True)
    model.mkdir()
    (model / "config.json").write_text("{}")
    features = {robot: {"dtype": "video", "shape": [480, 640, 3]}, "action": {"dtype": "float32", "shape": [6]}}
    info = {"robot_type": robot, "total_episodes": 5, "total_frames": 300, "fps": 30, "features": features}
    (data / "meta/info.json").write_text(json.dumps(info))
    (data / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": task}))
    spec = RunSpec(
        run_id=RUN,
        preset="smoke",
        config=PRESETS["smoke"].config.model_copy(update={"learning_rate": 0.005, "exclude_episodes": ["3", "40-44"]}),
        provenance={"learning_rate": "flag"},
        datasets=[snapshots.push(store, data, "dataset", "team/pears", origin={"hub": robot}).ref],
        base_model=snapshots.push(store, model, "model", "tiny", origin={"license": "the licence of it"}).ref,
        wandb=WandbSpec(entity="e", project="p", name="smoke", run_id=RUN, group="g"),
        created=START,
    )
    runs.write_spec(store, spec)
    return spec


def ended(store, events: list[dict[str, object]], status: str = "done") -> None:
    lines = [json.dumps({"time": (START + timedelta(seconds=n)).isoformat(), **each}) for n, each in enumerate(events)]
    runs.write_file(store, RUN, "events.jsonl", "\n".join(lines).encode())
    state = {"status": status, "step": 400, "of": 400, "started": START, "ended": START + timedelta(seconds=90)}
    runs.write_state(store, RUN, runs.RunState.model_validate(state))


def checkpoint(store, spec, tmp_path, step: int, **changes) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text("the same")
    ref = snapshots.push(store, folder, "checkpoint", RUN).ref
    registry.register(store, registry.CheckpointEntry(run_id=RUN, step=step, snapshot=ref, spec=spec))
    found = evaluation(
        {"a": 4.0 / step, "b": 3.0 / step}, {"b"}, dataset="team/pears", training_mse=3 / step, **changes
    )
    registry.add_metrics(store, RUN, step, found.metrics(), found)


def episode(number: int, joints: int, frames: int, cameras: list[str], name: str = "joint") -> RecordedEpisode:
    def wave(joint: int, shift: float) -> list[float]:
        return [round(math.sin(frame / 9 + joint + shift) + frame * 7919 % 13 / 99, 5) for frame in range(frames)]

    return RecordedEpisode(
        episode=number,
        trained_on=False,
        mse=0.1,
        asked=list(range(0, frames, 16)),
        joints=[
            RecordedJoint(name=f"{name} {joint}", unit="rad", demonstrated=wave(joint, 0), predicted=wave(joint, 0.2))
            for joint in range(joints)
        ],
        cameras=cameras,
        shown=list(range(0, frames, 80)),
    )


def keep_episode(store, step: int, recorded: RecordedEpisode, strip: bytes) -> None:
    folder = f"report/checkpoint-{step}"
    runs.write_file(store, RUN, f"{folder}/{episode_name(recorded.episode)}", recorded.model_dump_json().encode())
    runs.write_file(store, RUN, f"{folder}/open_loop_episode_{recorded.episode}.png", b"a plot of pippa's")
    for camera in range(len(recorded.cameras)):
        runs.write_file(store, RUN, f"{folder}/{strip_name(recorded.episode, camera)}", strip)


PROGRESS: list[dict[str, object]] = [
    {"event": "phase", "phase": "train"},
    {"event": "progress", "step": 10, "of": 400, "loss": 0.9, "lr": 0.005, "samples_per_second": 100.0},
    {"event": "progress", "step": 400, "of": 400, "loss": 0.1, "lr": 0.001, "memory_bytes": 2_000_000_000},
]


def test_names_of_strangers_stay_text(object_store, tmp_path):
    spec = run_of(object_store, tmp_path, HOSTILE, HOSTILE)
    joint = JointFigures(name=HOSTILE, unit=HOSTILE, mse=0.1, hold_still_mse=1.0, variance=1.0)
    taken = Ablation(input=f"camera.{HOSTILE}", change="swapped", mse=1.0, relative=0.5)
    checkpoint(object_store, spec, tmp_path, 400, joints=[joint], ablations=[taken])
    keep_episode(object_store, 400, episode(0, 2, 60, [HOSTILE], name=HOSTILE), b"webp")
    ended(object_store, [*PROGRESS, {"event": "warning", "message": HOSTILE}])
    page = Read(build_page(object_store, RUN))
    assert not {"script", "iframe", "object", "link", "base", "form"} & page.tags and not page.handlers
    assert all(each.startswith(("#", "data:image/")) for each in page.loads)
    # Robot, camera and origin of the dataset, instruction, joint, unit, ablation, strip, warning.
    assert page.text.count(HOSTILE) >= 9


def test_the_page_tells_all_of_a_run_with_the_verdict_first(object_store, tmp_path):
    spec = run_of(object_store, tmp_path)
    taken = Ablation(input="camera.wrist", change="frozen", mse=1.0, relative=0.42)
    for step in (200, 400):
        checkpoint(object_store, spec, tmp_path, step, ablations=[taken] if step == 400 else [])
    keep_episode(object_store, 400, episode(3, 2, 60, ["wrist"]), b"webp")
    ended(object_store, PROGRESS)
    text = Read(build_page(object_store, RUN)).text
    told = (
        f"{RUN}, step 400 of 400, on team/pears",
        "It has learned the task: it follows the demonstrations (checkpoint 400, on 1 held-out episode).",
        f"pippa checkpoints pull {RUN}/400 ./smoke-checkpoint",
        "Training loss",
        "learning rate (right axis)",
        "Open-loop error over the checkpoints",
        "held-out episodes",
        "holding still",
        "Open loop of step 400 on team/pears",
        "Episode 3 (held-out)",
        "joint 1 (rad)",
        "+42.0%",
        "--learning-rate",
        "changed for this run",
        "youliangtan/so101-table-cleanup",  # what blog has
        "480 × 640 × 3",
        "pick the pear",
        "episodes 3, 40-44 (--exclude-episodes)",
        "the licence of it",
        "100 samples per second",
        "2.0 GB at most",
        f"pippa runs pull {RUN} FOLDER",
    )
    position = 0
    for each in told:
        position = text.find(each, position)
        assert position >= 0, each


def svg_files(markdown: str) -> list[bytes]:
    return [base64.b64decode(each) for each in re.findall(r"\(data:image/svg\+xml;base64,([^)]*)\)", markdown)]


def test_the_report_for_prefect_shows_pictures_instead_of_paths(object_store, tmp_path):
    spec = run_of(object_store, tmp_path)
    checkpoint(object_store, spec, tmp_path, 400)
    strip = random.Random(0).randbytes(90_000)
    for number in range(5):
        keep_episode(object_store, 400, episode(number, 43, 1000, ["front", "wrist", "side"], HOSTILE), strip)
    ended(object_store, PROGRESS)
    report = build_report(object_store, RUN)
    text = illustrated(object_store, report)
    loss, errors, joints = map(ElementTree.fromstring, svg_files(text))
    drawn = {each.tag.rpartition("}")[2] for picture in (loss, errors, joints) for each in picture.iter()}
    assert {"svg", "path", "text"} <= drawn and not {"script", "style", "img", "foreignObject"} & drawn
    shown = [each.text for each in joints.iter() if each.text and each.text.startswith("<script>")]
    assert shown == [f"{HOSTILE} {joint} (rad)" for joint in range(12)]
    assert text.count("(data:image/webp;base64,") == 2 and len(text) < 700_000
    assert "open_loop_episode" not in text and "<script>" not in text and "var(--" not in text
    assert report.verdict in text and f"pippa report {RUN} --open" in text
    # In a terminal it is what it was.
    assert without_pictures(text).splitlines()[:3] == to_markdown(report).splitlines()[:3]
    assert "data:" not in without_pictures(text)


def test_a_diverged_policy_has_a_page(object_store, tmp_path):
    spec = run_of(object_store, tmp_path)
    checkpoint(object_store, spec, tmp_path, 400)
    wrong = [math.nan, math.inf, -math.inf, 1e308, -1e308, 0.5]
    joint = RecordedJoint(name="elbow", unit="rad", demonstrated=[0.1 * n for n in range(6)], predicted=wrong)
    found = RecordedEpisode(episode=3, trained_on=False, mse=math.nan, asked=[0, 3], joints=[joint])
    keep_episode(object_store, 400, found, b"webp")
    ended(object_store, [*PROGRESS, {"event": "progress", "step": 400, "of": 400, "loss": 1e308, "lr": 0.1}])
    page = Read(build_page(object_store, RUN))
    assert "Episode 3 (held-out): MSE nan" in page.text and "elbow (rad)" in page.text


def test_what_is_missing_is_said(object_store, tmp_path):
    run_of(object_store, tmp_path)
    text = Read(build_page(object_store, RUN)).text
    for sentence in (
        "No checkpoint of this run was evaluated yet",
        "No loss was logged.",
        "There are no open-loop plots of this checkpoint.",
        "No input was taken away",
        f"pippa runs resume {RUN}",
    ):
        assert sentence in text
    with pytest.raises(UsageError, match="There is no run"):
        build_page(object_store, RUN.replace("abcd", "ffff"))


def test_a_run_of_an_earlier_pippa_shows_the_plots_it_has(object_store, tmp_path):
    spec = run_of(object_store, tmp_path)
    checkpoint(object_store, spec, tmp_path, 400)
    runs.write_file(object_store, RUN, "report/open_loop_episode_2.png", b"png")
    page = Read(build_page(object_store, RUN))
    assert "Episode 2" in page.text and any(each.startswith("data:image/png;base64,") for each in page.loads)


def test_a_dataset_that_is_gone_or_damaged_is_said_to_be(object_store, tmp_path):
    spec = run_of(object_store, tmp_path)
    for found in list(object_store.list("snapshots/dataset/")):
        object_store.delete(found.key)
    page = build_page(object_store, RUN)
    assert f"There is no dataset {spec.datasets[0]} in the object store." in Read(page).text


@pytest.mark.slow
def test_forty_checkpoints_and_three_cameras_stay_below_five_megabytes(object_store, tmp_path):
    spec = run_of(object_store, tmp_path)
    for step in range(10, 410, 10):
        checkpoint(object_store, spec, tmp_path, step)
    strip = random.Random(0).randbytes(400_000)
    for number in range(5):
        keep_episode(object_store, 400, episode(number, 43, 1000, ["front", "wrist", "side"]), strip)
    ended(object_store, PROGRESS)
    page = build_page(object_store, RUN)
    assert len(page.encode()) < 5_000_000
    assert "joints are left out, so that the page stays small." in page


def test_a_curve_is_what_was_logged_last(object_store):
    steps = [(10, 0.9), (15, 0.9), (20, 0.5), (30, 0.4), (20, 0.45), (30, 0.3)]
    events: list[Event] = [ProgressEvent(step=step, of=30, loss=loss, lr=0.1) for step, loss in steps]
    assert curve_of(events).loss == [(10, 0.9), (20, 0.45), (30, 0.3)]


def test_the_time_between_two_attempts_is_nobodys():
    def at(seconds: float, phase: str) -> PhaseEvent:
        return PhaseEvent(time=START + timedelta(seconds=seconds), phase=phase)

    events = [at(0, "prepare"), at(2, "train"), at(12, "train"), at(1000, "prepare"), at(1003, "train"), at(1004, "x")]
    assert seconds_by_phase(events) == {"prepare": 5.0, "train": 11.0}
