"""Puts a dataset of LeRobot v2 into the v3 layout, as LeRobot's own conversion does: many episodes in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq

V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def to_v3(v2: Path, v3: Path, per_file: int = 2) -> Path:
    """Write ``v2`` as ``v3``, ``per_file`` episodes in each data and video file."""
    info = json.loads((v2 / "meta/info.json").read_text())
    episodes = [json.loads(line) for line in (v2 / "meta/episodes.jsonl").read_text().split("\n") if line]
    tasks = [json.loads(line) for line in (v2 / "meta/tasks.jsonl").read_text().split("\n") if line]
    videos = [path.parent.name for path in (v2 / "videos").glob("*/*/episode_000000.mp4")]
    rows: list[dict[str, Any]] = []
    for first in range(0, len(episodes), per_file):
        number, members = first // per_file, episodes[first : first + per_file]
        names = [f"episode_{each['episode_index']:06d}" for each in members]
        table = pa.concat_tables([pq.read_table(v2 / f"data/chunk-000/{name}.parquet") for name in names])
        write_table(v3 / V3_DATA.format(chunk_index=0, file_index=number), table)
        places = [{"data/chunk_index": 0, "data/file_index": number} for _ in members]
        for camera in videos:
            file = v3 / V3_VIDEO.format(chunk_index=0, file_index=number, video_key=camera)
            ends = concatenate([v2 / f"videos/chunk-000/{camera}/{name}.mp4" for name in names], file)
            for place, start, end in zip(places, [0.0, *ends], ends, strict=False):
                place |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": number}
                place |= {f"videos/{camera}/from_timestamp": start, f"videos/{camera}/to_timestamp": end}
        index = sum(each["length"] for each in episodes[:first])
        for each, place in zip(members, places, strict=True):
            bounds = {"dataset_from_index": index, "dataset_to_index": index + each["length"]}
            rows.append({**each, **place, **bounds, "stats/action/mean": [0.0]})
            index += each["length"]
    write_table(v3 / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
    # The index of a data frame: the instruction has no column name.
    table = pa.table({"task_index": [t["task_index"] for t in tasks], "__index_level_0__": [t["task"] for t in tasks]})
    write_table(v3 / "meta/tasks.parquet", table)
    info |= {"codebase_version": "v3.0", "data_path": V3_DATA, "video_path": V3_VIDEO, "video_files_size_in_mb": 200}
    for feature in info["features"].values():
        if feature["dtype"] != "video":
            feature["fps"] = info["fps"]
    (v3 / "meta/info.json").write_text(json.dumps(info))
    (v3 / "meta/stats.json").write_text('{"action": {"mean": [0.0], "count": [1]}}')
    if (v2 / "meta/modality.json").exists():
        (v3 / "meta/modality.json").write_bytes((v2 / "meta/modality.json").read_bytes())
    return v3


def concatenate(files: list[Path], target: Path) -> list[float]:
    """Put the videos into one, as they are encoded; the seconds at which each ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    ends, shift = [], 0
    with av.open(target, "w") as output:
        copy = None
        for file in files:
            with av.open(file) as source:
                stream = source.streams.video[0]
                copy = copy or output.add_stream_from_template(stream, opaque=True)
                assert stream.duration is not None and stream.time_base is not None
                for packet in source.demux(stream):
                    if packet.size:
                        assert packet.pts is not None and packet.dts is not None
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                        output.mux(packet)
                shift += stream.duration
                ends.append(float(shift * stream.time_base))
    return ends


def write_table(file: Path, table: pa.Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
