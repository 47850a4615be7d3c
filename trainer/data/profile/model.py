"""The profile of a dataset, as a page, a terminal and ``--json`` show it. Imports nothing heavy."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from trainer.data.exclusion import numbers_as_texts
from trainer.data.profile.rules import BY_NAME, MOST_OF_THEM


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")


class Still(_Fact):
    """A picture of a camera."""

    episode: int
    frame: int
    webp: bytes


class Camera(_Fact):
    """One camera."""

    key: str
    source: str
    """The dataset's own name for it."""
    width: int
    height: int
    stills: list[Still] = Field(default=[], exclude=True)


class Task(_Fact):
    """One instruction."""

    text: str
    episodes: int
    frames: int


class Joint(_Fact):
    """One dimension of the state or the action, over all rows."""

    kind: str
    """``state`` or ``action``."""
    key: str
    name: str
    unit: str = ""
    min: float
    q01: float
    mean: float
    q99: float
    max: float

    @property
    def moves(self) -> bool:
        """Whether it has more than one value."""
        return self.max > self.min


class Series(_Fact):
    """What a finding rests on: a joint's course over an episode, row by row."""

    title: str
    state: list[float] = []
    action: list[float] = []


class Finding(_Fact):
    """Something that deserves a look."""

    rule: str
    """The name of a rule of ``trainer.data.profile.rules``."""
    episode: int | None
    """None for what is so in the whole dataset."""
    subject: str
    """The joint or camera; empty for the episode itself."""
    message: str
    frames: tuple[int, int] | None = None
    """The first row and the last."""
    figures: dict[str, float] = {}
    series: Series | None = Field(default=None, exclude=True)
    stills: list[Still] = Field(default=[], exclude=True)


class EpisodeFacts(_Fact):
    """One episode."""

    episode: int
    frames: int
    task: str
    """Empty where its table can't be read."""


class Profile(_Fact):
    """A dataset as it is."""

    name: str
    robot: str
    fps: float | None
    frames: int
    cameras: list[Camera]
    tasks: list[Task]
    joints: list[Joint]
    episodes: list[EpisodeFacts]
    findings: list[Finding]
    courses: dict[str, dict[int, list[float]]] = Field(default={}, exclude=True)
    """Of each state joint that moves, by ``<key> <name>``, the course over some episodes."""

    @property
    def hours(self) -> float | None:
        """Of demonstrations; None where the dataset has no frame rate."""
        return self.frames / self.fps / 3600 if self.fps else None

    @property
    def suspects(self) -> list[int]:
        """The episodes that are worth leaving out; none where those would be most of them, which is no exception."""
        found = {each.episode for each in self.findings if each.episode is not None and BY_NAME[each.rule].excludes}
        return sorted(found) if len(found) <= MOST_OF_THEM * len(self.episodes) else []

    @property
    def exclusion(self) -> list[str]:
        """``suspects`` as ``--exclude-episodes`` takes them."""
        return numbers_as_texts(self.suspects)
