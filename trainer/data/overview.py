"""How much a dataset has: episodes, frames, hours, cameras and tasks, from its metadata alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.data.dataset_meta import Info, list_episodes, list_tasks
from trainer.errors import DatasetError


@dataclass(frozen=True)
class Overview:
    """Of one dataset."""

    episodes: int
    frames: int
    fps: float | None
    cameras: list[str]
    """Name and resolution of each, as ``observation.images.front 640x480``."""
    tasks: list[str]

    @property
    def hours(self) -> float | None:
        """Of demonstrations; None where the dataset has no frame rate."""
        return self.frames / self.fps / 3600 if self.fps else None


def overview(folder: Path, info: Info) -> Overview:
    """Of the dataset in ``folder``, in LeRobot v2 or v3. Raises ``DatasetError`` for a list that can't be read."""
    lengths, tasks = _listed(folder, info)
    return Overview(
        episodes=len(lengths),
        frames=sum(lengths),
        fps=info.fps,
        cameras=[_described(info, camera) for camera in info.cameras()],
        tasks=tasks,
    )


def _listed(folder: Path, info: Info) -> tuple[list[int], list[str]]:
    """The lengths of the episodes that have rows, and the tasks; those are none where their list can't be read."""
    episodes = list_episodes(folder, info)
    try:
        tasks = list(list_tasks(folder, info).values())
    except DatasetError:  # not needed where a column has the text
        tasks = list(dict.fromkeys(task for episode in episodes for task in episode.tasks))
    return [episode.length for episode in episodes if episode.length], tasks


def _described(info: Info, camera: str) -> str:
    try:
        width, height = info.camera(camera).resolution
    except ValueError:
        return camera
    return f"{camera} {width}x{height}"
