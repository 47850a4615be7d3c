"""An evaluated episode as a report keeps it: what was demonstrated and predicted, per joint, and what the cameras saw.

Imports nothing heavy: pages are made where there is no trainer.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

PAGE = "report/report.html"
"""Where the page of a run (``flows.views.run_page``) lies in its record, and in its folder."""
MAX_BYTES = 32 << 20
"""Of one such file; more is not read."""


class RecordedJoint(BaseModel):
    """One action dimension over an episode, in its own unit."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    name: str
    unit: str | None = None
    demonstrated: list[float]
    predicted: list[float]


class RecordedEpisode(BaseModel):
    """``open_loop_episode_<episode>.json`` of a report."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    episode: int
    trained_on: bool
    mse: float
    asked: list[int]
    """Frames at which the policy was asked."""
    joints: list[RecordedJoint]
    cameras: list[str] = Field(default=[], max_length=16)
    """The cameras' keys; of each there is a strip of pictures in another file (``strip_name``)."""
    shown: list[int] = []
    """The frames in each strip, those at which the policy was asked or some of them."""


def episode_name(episode: int) -> str:
    """The file of an episode."""
    return f"open_loop_episode_{episode}.json"


def strip_name(episode: int, camera: int) -> str:
    """The file of a strip, by the number of the camera: a key may be no name for a file."""
    return f"open_loop_episode_{episode}_camera_{camera}.webp"
