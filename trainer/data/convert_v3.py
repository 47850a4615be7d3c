"""From LeRobot's v3 layout, many episodes in a file, to v2.1, one file per episode, which Isaac-GR00T's engines read.

Nothing is lost: table rows are the same, and every frame decodes to the same pixels. Where an episode begins at a key
frame, as LeRobot writes them, its video is cut out as it is encoded (``video_cut``).

Upstream: ``lerobot/datasets/v30/convert_dataset_v21_to_v30.py`` does the opposite.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from trainer.data.info import InfoV3
from trainer.data.layout_v3 import EpisodeV3, LayoutV3, load_episodes_v3, load_tasks_v3
from trainer.data.meta_files import read_document
from trainer.data.video_cut import Part, cut
from trainer.errors import DatasetError

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def convert_to_v21(
    folder: Path, into: Path, used: Collection[str] | None = None, left_out: Callable[[str], None] = lambda _: None
) -> Path:
    """Write the v3 dataset in ``folder`` as v2.1 into the new folder ``into``; returns it.

    Statistics are left out: they are computed from the data when they are missing. So is a camera that can't be
    converted and is not in ``used`` (by default all are), which ``left_out`` gets. Raises ``DatasetError`` for the
    first other part that is missing, damaged or contradictory.
    """
    info = read_document(folder / "meta/info.json", InfoV3)
    episodes = load_episodes_v3(folder, info)
    layout = LayoutV3(folder, info, [episode for episode in episodes if episode.length])
    tasks = load_tasks_v3(folder)
    (into / "meta").mkdir(parents=True)
    for episode in layout.episodes:
        _write_rows(into, layout, episode)
    for camera in info.videos:
        try:
            _convert_videos(into, layout, camera)
        except DatasetError as error:
            if used is None or camera in used:
                raise
            left_out(f"The camera {camera}, which the data config does not use, is left out: {error.message}")
            del info.features[camera]
            for videos in (into / "videos").glob(f"*/{camera}"):
                shutil.rmtree(videos)
    lines = [{"episode_index": each.episode_index, "tasks": each.tasks, "length": each.length} for each in episodes]
    _write_lines(into / "meta/episodes.jsonl", lines)
    _write_lines(into / "meta/tasks.jsonl", [{"task_index": index, "task": task} for index, task in tasks.items()])
    (into / "meta/info.json").write_text(json.dumps(_info_v21(info, episodes), indent=4), encoding="utf-8")
    for name in ("meta/modality.json", "README.md"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, into / name)
    return into


def _info_v21(info: InfoV3, episodes: list[EpisodeV3]) -> dict[str, Any]:
    document = info.model_dump()
    for name in ("data_files_size_in_mb", "video_files_size_in_mb"):
        document.pop(name, None)
    for feature in document["features"].values():
        if isinstance(feature, dict) and feature.get("dtype") != "video":
            feature.pop("fps", None)
    return document | {
        "codebase_version": "v2.1",
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if info.videos else None,
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
        "total_chunks": max((episode.episode_index for episode in episodes), default=-1) // info.chunks_size + 1,
        "total_videos": sum(len(episode.videos) for episode in episodes),
    }


def _write_rows(into: Path, layout: LayoutV3, episode: EpisodeV3) -> None:
    number = episode.episode_index
    target = into / DATA_PATH.format(episode_chunk=number // layout.info.chunks_size, episode_index=number)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(layout.tables.table(number).combine_chunks(), target)


def _convert_videos(into: Path, layout: LayoutV3, camera: str) -> None:
    by_file: dict[Path, list[Part]] = defaultdict(list)
    for episode in layout.episodes:
        if camera not in episode.videos:
            continue  # described and never recorded
        number = episode.episode_index
        clip = layout.video(camera, number)
        place = {"episode_chunk": number // layout.info.chunks_size, "video_key": camera, "episode_index": number}
        by_file[clip.path].append(Part(into / VIDEO_PATH.format(**place), clip))
    for file, parts in by_file.items():
        cut(file, parts)


def _write_lines(file: Path, documents: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in documents), encoding="utf-8")
