"""Small SO-101 datasets with two cameras whose frames say their number, and what people do to such datasets."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.support.so101 import FPS, FRAMES, make_so101
from tests.trainer.data.videos import picture
from trainer.data.known_robots import MODALITIES, to_json
from trainer.data.statistics import statistics_of

CONFIG = "so100_dualcam"
CAMERAS = ("front", "wrist")
EPISODES = 2
ROWS = np.arange(FRAMES)
JITTER = np.random.default_rng(0).uniform(-0.004, 0.004, FRAMES)
"""Of a real clock, in seconds."""

Change = Callable[[Path], object]


def make(path: Path, *changes: Change) -> Path:
    """A good dataset at ``path``, then changed."""
    make_so101(path, episodes=EPISODES)
    (path / "meta/modality.json").write_text(to_json(MODALITIES[CONFIG]))
    for change in changes:
        change(path)
    return path


def parquet(path: Path, episode: int) -> Path:
    return path / f"data/chunk-000/episode_{episode:06d}.parquet"


def mp4(path: Path, episode: int, camera: str) -> Path:
    return path / f"videos/chunk-000/observation.images.{camera}/episode_{episode:06d}.mp4"


def document(name: str, change: Callable[[Any], object]) -> Change:
    """``change`` of a JSON document of ``meta/``."""

    def apply(path: Path) -> None:
        file = path / "meta" / name
        content = json.loads(file.read_text())
        changed = change(content)
        file.write_text(json.dumps(content if changed is None else changed))

    return apply


def feature(name: str, **values: Any) -> Change:
    return document("info.json", lambda info: info["features"].setdefault(name, {}).update(values))


def camera_info(camera: str, **values: Any) -> Change:
    name = f"observation.images.{camera}"
    return document("info.json", lambda info: info["features"][name]["info"].update(values))


def text(name: str, content: str | bytes | Callable[[], str]) -> Change:
    """Another content of a file; a large one is made where it is wanted, not in each process that imports it."""

    def apply(path: Path) -> None:
        made = content() if callable(content) else content
        (path / name).write_bytes(made.encode() if isinstance(made, str) else made)

    return apply


def edited(name: str, change: Callable[[bytes], bytes]) -> Change:
    return lambda path: (path / name).write_bytes(change((path / name).read_bytes()))


def lines(name: str, documents: Iterable[Any]) -> Change:
    content = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in documents)
    return text(f"meta/{name}", content)


def columns(**values: Any) -> Change:
    """Replace columns of every episode by ``value`` or ``value(episode)``; None removes one. ``__`` is a dot."""

    def apply(path: Path) -> None:
        for episode in range(EPISODES):
            table = pq.read_table(parquet(path, episode))
            for key, value in values.items():
                name = key.replace("__", ".")
                value = value(episode) if callable(value) else value
                if name in table.column_names:
                    table = table.drop_columns([name])
                if value is not None:
                    table = table.append_column(name, value if isinstance(value, pa.Array) else pa.array(value))
            pq.write_table(table, parquet(path, episode))

    return apply


def recast(convert: Callable[[list[list[float]]], pa.Array], which: Iterable[int] = range(EPISODES)) -> Change:
    """Write states and actions of the episodes ``which`` otherwise."""

    def apply(path: Path) -> None:
        for episode in which:
            table = pq.read_table(parquet(path, episode))
            for name in ("action", "observation.state"):
                values = convert(table.column(name).to_pylist())
                table = table.set_column(table.column_names.index(name), name, values)
            pq.write_table(table, parquet(path, episode))

    return apply


def films(
    write: Callable[..., object], cameras: Iterable[str] = CAMERAS, which: Iterable[int] = range(EPISODES), **kw: Any
) -> Change:
    """Record the cameras again."""

    def apply(path: Path) -> None:
        for camera in cameras:
            for episode in which:
                write(mp4(path, episode, camera), **kw)

    return apply


def film(
    path: Path,
    frames: int = FRAMES,
    fps: Fraction | int = FPS,
    pts: Iterable[int] | None = None,
    base: Fraction | None = None,
    first: int = 0,
    options: dict[str, str] | None = None,
    audio: bool = False,
    turned: int = 0,
    container: dict[str, str] | None = None,
) -> Path:
    """A video of pictures 0 to ``frames`` - 1, which may begin late, keep its own time, or have a sound track first."""
    times = list(range(first, first + frames)) if pts is None else list(pts)
    with av.open(path, "w", options=container or {}) as output:
        sound = output.add_stream("aac", rate=48000) if audio else None
        stream = output.add_stream("libx264", rate=fps, options={"preset": "veryfast", "g": "4", **(options or {})})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if base is not None:
            stream.codec_context.time_base = base
        if turned:
            stream.set_display_rotation(turned)
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            silence.sample_rate = 48000
            for number in range(10):
                silence.pts = number * 1024
                output.mux(sound.encode(silence))  # pyrefly: ignore[bad-argument-type]
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = time
            if base is not None:
                frame.time_base = base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sound is not None:
            output.mux(sound.encode(None))  # pyrefly: ignore[bad-argument-type]
    return path


def images_in_tables(kind: str = "PNG", *, bare: bool = False) -> Change:
    """The cameras as images in the tables instead of videos."""

    def apply(path: Path) -> None:
        shutil.rmtree(path / "videos")
        files = []
        for number in range(FRAMES):
            buffer = io.BytesIO()
            Image.fromarray(picture(number)).save(buffer, kind)
            files.append(
                buffer.getvalue() if bare else {"bytes": buffer.getvalue(), "path": f"{number}.{kind.lower()}"}
            )
        values = {f"observation__images__{camera}": files for camera in CAMERAS}
        columns(**values)(path)
        shape = {"dtype": "image", "shape": [48, 64, 3], "names": ["height", "width", "channel"]}
        for camera in CAMERAS:
            document("info.json", lambda info, c=camera: info["features"].update({f"observation.images.{c}": shape}))(
                path
            )
        document("info.json", lambda info: info.update(video_path=None, total_videos=0))(path)

    return apply


def statistics(scale: float = 1.0, **values: Any) -> Change:
    """A ``meta/stats.json`` of the data, its ranges ``scale`` times as wide, with other ``values`` in it."""

    def apply(path: Path) -> None:
        tables = [pq.read_table(parquet(path, episode)) for episode in range(EPISODES)]
        document = {}
        for name in ("action", "observation.state"):
            described = statistics_of([np.array(table.column(name).to_pylist()) for table in tables]).model_dump()
            wider = {key: [value * scale for value in described[key]] for key in described}
            document[name] = wider | values
        (path / "meta/stats.json").write_text(json.dumps(document))

    return apply


def both(*changes: Change) -> Change:
    def apply(path: Path) -> None:
        for change in changes:
            change(path)

    return apply


def tasks(task: object) -> Change:
    """One task, under which the episodes are listed."""
    told = task[0] if isinstance(task, list) else task
    episodes = [{"episode_index": e, "tasks": [told], "length": FRAMES} for e in range(EPISODES)]
    return both(lines("tasks.jsonl", [{"task_index": 0, "task": task}]), lines("episodes.jsonl", episodes))


def seconds(times: np.ndarray) -> Change:
    return columns(timestamp=np.asarray(times, np.float32))


def listed(*lengths: int) -> Change:
    """``episodes.jsonl`` with episodes of these lengths."""
    return lines("episodes.jsonl", [{"episode_index": e, "tasks": [], "length": n} for e, n in enumerate(lengths)])


def instructed(values: pa.Array | list[object]) -> Change:
    """The instruction in a separate column."""

    def apply(path: Path) -> None:
        columns(language=values if isinstance(values, pa.Array) else pa.array(values))(path)
        key = "human.task_description"
        document("modality.json", lambda m: m["annotation"].update({key: {"original_key": "language"}}))(path)

    return apply


def slower_table(factor: int) -> Change:
    """The table at a ``factor``-th of the cameras' rate."""

    def apply(path: Path) -> None:
        seconds(ROWS / (FPS / factor))(path)
        document("info.json", lambda info: info.update(fps=FPS / factor))(path)
        films(film, frames=factor * FRAMES)(path)

    return apply


def one_row(path: Path) -> None:
    """The second episode has one row."""
    pq.write_table(pq.read_table(parquet(path, 1)).slice(0, 1), parquet(path, 1))
    listed(FRAMES, 1)(path)
