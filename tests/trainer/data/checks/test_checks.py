"""Every kind of broken dataset is reported, with the file and the fix."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.data.videos import write_video
from trainer.data.checks import Problem, check_dataset, format_problems
from trainer.data.configs import DataConfig, Feature, get_data_config
from trainer.errors import UsageError

CAMERA = "observation.images.ego_view"
VIDEO = f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
TABLE = "data/chunk-000/episode_000001.parquet"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_table(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    columns = pq.read_table(path).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), path)


def meta(name: str, change: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda path: edit_json(path / "meta" / name, change)


def table(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda path: edit_table(path / TABLE, change)


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text(text)


def remove(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).unlink()


def cut(name: str, keep: float) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes(
        (path / name).read_bytes()[: int((path / name).stat().st_size * keep)]
    )


def append(name: str, text: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text((path / name).read_text() + text)


def v3(path: Path) -> None:
    (path / "meta/episodes.jsonl").unlink()
    (path / "meta/episodes/chunk-000").mkdir(parents=True)


def set_nan(columns: dict[str, Any]) -> None:
    columns["action"][3][7] = float("nan")


def narrow(columns: dict[str, Any]) -> None:
    columns["observation.state"] = [row[:40] for row in columns["observation.state"]]


def ragged(columns: dict[str, Any]) -> None:
    columns["action"][2] = columns["action"][2][:-1]


def shorter(columns: dict[str, Any]) -> None:
    for values in columns.values():
        values.pop()


def backwards(columns: dict[str, Any]) -> None:
    columns["timestamp"][5] = 0.0


def nan_statistics(document: dict[str, Any]) -> None:
    document["action"]["mean"][0] = float("nan")


def relabel(columns: dict[str, Any]) -> None:
    columns["annotation.human.action.task_description"][0] = 99


def no_names(info: dict[str, Any]) -> None:
    info["features"][CAMERA]["names"] = ["a", "b", "c"]


def second_camera(path: Path) -> None:
    """A camera of another resolution."""
    edit_json(path / "meta/modality.json", lambda m: m["video"].update(front={"original_key": "observation.front"}))
    feature = {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
    edit_json(path / "meta/info.json", lambda i: i["features"].update({"observation.front": feature}))
    (path / "videos/chunk-000/observation.front").mkdir()
    for line in (path / "meta/episodes.jsonl").read_text().splitlines():
        episode = json.loads(line)
        file = path / f"videos/chunk-000/observation.front/episode_{episode['episode_index']:06d}.mp4"
        write_video(file, episode["length"])


BROKEN: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("no info.json", remove("meta/info.json"), r"info\.json: missing", "download"),
    ("no modality.json", remove("meta/modality.json"), r"modality\.json: missing", "names the slices"),
    ("no episodes.jsonl", remove("meta/episodes.jsonl"), r"episodes\.jsonl: missing", "[Dd]ownload"),
    ("no tasks.jsonl", remove("meta/tasks.jsonl"), r"tasks\.jsonl: missing", "[Dd]ownload"),
    ("broken info.json", cut("meta/info.json", 0.5), r"info\.json: not JSON", "download"),
    ("incomplete info.json", meta("info.json", lambda d: d.pop("chunks_size")), r"info\.json: chunks_size", "Correct"),
    ("a bad slice", meta("modality.json", lambda d: d["state"]["left_arm"].update(end=0)), "left_arm", "Correct"),
    ("a bad line", append("meta/tasks.jsonl", '{"task_index": 9, "ta'), r"tasks\.jsonl, line 7: not JSON", "remove"),
    ("an empty line field", append("meta/episodes.jsonl", '{"episode_index": 9}'), r"line 4: length", "Correct"),
    ("an episode twice", append("meta/episodes.jsonl", '{"episode_index": 1, "length": 3}'), "twice", "one line"),
    ("metadata pointer", write("meta/info.json", POINTER), r"info\.json: a git-lfs pointer", "git lfs pull"),
    ("stats pointer", write("meta/stats.json", POINTER), r"stats\.json: a git-lfs pointer", "git lfs pull"),
    ("stats syntax", write("meta/stats.json", "{"), r"stats\.json: not JSON", "Delete it"),
    ("stats NaN", meta("stats.json", nan_statistics), r"stats\.json: NaN .* mean of action", "Delete it"),
    ("stats short", meta("stats.json", lambda d: d["action"].update(q01=[0.0] * 30)), "30 dimensions of 35", "Delete"),
    ("v3 layout", v3, "v3 layout", "versions were mixed up"),
    ("v3 version", meta("info.json", lambda d: d.update(codebase_version="v3.0")), "{episode_chunk", "Correct"),
    ("v3 paths", meta("info.json", lambda d: d.update(data_path="{file_index}")), "file_index", "Correct"),
    ("slice too wide", meta("modality.json", lambda d: d["action"]["left_arm"].update(end=45)), "is 0 to 45", "start"),
    ("camera names", meta("info.json", no_names), r"ego_view' is not described", "height"),
    ("camera not in info", meta("info.json", lambda d: d["features"].pop(CAMERA)), "no feature", "original_key"),
    ("camera resolution", meta("info.json", lambda d: d["features"][CAMERA].update(shape=[128, 256, 3])),
     r"episode_000000\.mp4: 256x256 pixels; .* 256x128", "re-encode"),
    ("no table", remove(TABLE), r"episode_000001\.parquet: missing", "[Dd]ownload"),
    ("table cut off", cut(TABLE, 0.7), r"episode_000001\.parquet: not a readable parquet", "[Dd]ownload"),
    ("table pointer", write(TABLE, POINTER), r"episode_000001\.parquet: a git-lfs pointer", "git lfs pull"),
    ("table shorter", table(shorter), r"rows; meta/episodes\.jsonl says", "Correct the length"),
    ("column missing", table(lambda c: c.pop("timestamp")), "no column 'timestamp'", "--video-alignment index"),
    ("column narrow", table(narrow), "'observation.state' has 40 dimensions; meta/info.json says 44", "shape"),
    ("column ragged", table(ragged), "rows of 'action' differ in length", "dimensions"),
    ("data NaN", table(set_nan), "NaN or infinite values in 'action', first in row 3", "Remove the episode"),
    ("timestamps", table(backwards), "timestamps don't increase", "index / fps"),
    ("unknown task", table(relabel), "names task 99", "tasks.jsonl"),
    ("no video", remove(VIDEO), r"episode_000001\.mp4: missing", "[Dd]ownload"),
    ("video empty", write(VIDEO, ""), r"episode_000001\.mp4: empty", "download"),
    ("video cut off", cut(VIDEO, 0.6), r"episode_000001\.mp4: not a readable video", "download"),
    ("video pointer", write(VIDEO, POINTER), r"episode_000001\.mp4: a git-lfs pointer", "git lfs pull"),
    ("video shorter", lambda path: write_video(path / VIDEO, 30), r"30 frames; meta/episodes\.jsonl", "every step"),
]  # fmt: skip


def problems_of(path: Path, config: DataConfig | str) -> list[Problem]:
    return check_dataset(path, config).problems


@pytest.fixture
def dataset(synthetic: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic, tmp_path / "dataset"))


@pytest.mark.parametrize(("breaking", "message", "fix"), [pytest.param(*row[1:], id=row[0]) for row in BROKEN])
def test_broken_datasets_are_reported(
    dataset: Path, breaking: Callable[[Path], object], message: str, fix: str
) -> None:
    breaking(dataset)
    problems = problems_of(dataset, "fourier_gr1_arms_only")
    matching = [problem for problem in problems if re.search(message, problem.message)]
    assert matching, format_problems(problems)
    assert re.search(fix, matching[0].fix), matching[0]
    assert "\n" not in matching[0].message


def test_a_camera_the_dataset_lacks_names_the_data_config_that_fits(dataset: Path) -> None:
    assert problems_of(dataset, "so100_dualcam") == [
        Problem(
            "so100_dualcam expects video.front, video.wrist; this dataset has ego_view",
            "use fourier_gr1_arms_only or fourier_gr1_arms_waist",
        )
    ]


def test_without_a_data_config_that_fits_every_missing_key_is_named(dataset: Path) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["video"]["head"] = document["video"].pop("ego_view")
        document["state"]["arm"] = document["state"].pop("left_arm")

    edit_json(dataset / "meta/modality.json", rename)
    messages = [problem.message for problem in problems_of(dataset, "fourier_gr1_arms_only")]
    assert "fourier_gr1_arms_only expects video.ego_view; this dataset has head" in messages
    assert any("expects state.left_arm" in message for message in messages)


def test_all_problems_come_in_one_go(dataset: Path) -> None:
    set_both = [remove(VIDEO), table(set_nan), meta("stats.json", nan_statistics), append("meta/tasks.jsonl", "{")]
    for breaking in set_both:
        breaking(dataset)
    text = format_problems(problems_of(dataset, "fourier_gr1_arms_only"))
    for part in ("mp4: missing", "NaN or infinite values in 'action'", "mean of action", "line 7: not JSON"):
        assert part in text


def test_a_truncated_video_with_its_index_in_front_is_found(dataset: Path) -> None:
    """Such a file opens without an error, and fails only when training reaches the missing frames."""
    import av

    with (
        av.open(dataset / VIDEO) as source,
        av.open(dataset / "front.mp4", "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    (dataset / "front.mp4").replace(dataset / VIDEO)
    assert problems_of(dataset, "fourier_gr1_arms_only") == []
    cut(VIDEO, 0.9)(dataset)
    assert "cut off" in format_problems(problems_of(dataset, "fourier_gr1_arms_only"))


def test_cameras_must_share_a_resolution(dataset: Path) -> None:
    second_camera(dataset)
    base = get_data_config("fourier_gr1_arms_only")
    config = DataConfig("two", ("ego_view", "front"), base.state, base.action, base.language)
    (problem,) = problems_of(dataset, config)
    assert "different resolution: video.ego_view 256x256, video.front 64x48" in problem.message


def test_actions_wider_than_the_model_are_refused(dataset: Path) -> None:
    base = get_data_config("fourier_gr1_arms_only")
    more = tuple(Feature(key, "min_max") for key in ("left_leg", "right_leg"))
    config = DataConfig("wide", base.video, base.state, base.action + more, base.language)
    (problem,) = problems_of(dataset, config)
    assert "action keys of wide have 38 dimensions together; the model takes 32" in problem.message


def test_a_rotation_needs_its_type(dataset: Path) -> None:
    base = get_data_config("fourier_gr1_arms_only")
    state = (Feature("waist", rotation="rotation_6d"),)
    config = DataConfig("rotated", base.video, state, base.action, base.language)
    (problem,) = problems_of(dataset, config)
    assert "state.waist" in problem.message and "rotation_type" in problem.fix


def test_statistics_that_nothing_is_scaled_by_do_not_matter(dataset: Path) -> None:
    """This config's states become sines and cosines; its actions are scaled."""

    def of_other_data(column: str) -> Callable[[Any], object]:
        return lambda d: d[column].update({name: [v * 0.1 for v in d[column][name]] for name in d[column]})

    meta("stats.json", of_other_data("observation.state"))(dataset)
    assert problems_of(dataset, "fourier_gr1_arms_only") == []
    meta("stats.json", of_other_data("action"))(dataset)
    (problem,) = problems_of(dataset, "fourier_gr1_arms_only")
    assert "stats.json: action[" in problem.message and "--recompute-statistics" in problem.fix


def test_many_alike_are_summed_up(dataset: Path) -> None:
    lines = "".join(json.dumps({"episode_index": 10 + i, "length": 60}) + "\n" for i in range(20))
    append("meta/episodes.jsonl", lines)(dataset)
    problems = problems_of(dataset, "fourier_gr1_arms_only")
    assert len(problems) == 12
    assert any("and 15 more like this" in problem.message for problem in problems)


def test_blank_lines_and_missing_statistics_are_no_problem(dataset: Path) -> None:
    append("meta/tasks.jsonl", "\n\n")(dataset)
    remove("meta/stats.json")(dataset)
    assert problems_of(dataset, "fourier_gr1_arms_only") == []


def test_no_dataset_at_all(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "fourier_gr1_arms_only")
    assert "not a LeRobot dataset" in problem.message


def test_unknown_names_are_usage_errors(dataset: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean so100_dualcam"):
        check_dataset(dataset, "so100_dualcams")
    with pytest.raises(UsageError, match="embodiment tag"):
        check_dataset(dataset, "so100", embodiment_tag="so100")


def test_the_real_demo_dataset_is_fit(demo_dataset: Path) -> None:
    assert problems_of(demo_dataset, "fourier_gr1_arms_only") == []
    assert np.all([problem.fix for problem in problems_of(demo_dataset, "so100_dualcam")])
