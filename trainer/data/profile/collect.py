"""Reads a dataset once, tables and frames, and puts its profile together.

Frames come from the frame cache, where a training finds what was decoded here. An episode that can't be read is a
finding, and the others are looked at all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from trainer.config.settings import frame_cache_bytes, pippa_home
from trainer.data.configs import DataConfig, Feature
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.episodes import EpisodeTable, examine_table
from trainer.data.exclusion import leave_out
from trainer.data.frame_cache import Source
from trainer.data.frames import FrameStore
from trainer.data.holdout import episode_hash
from trainer.data.image_columns import ImageColumn
from trainer.data.joints import joint_names, joint_units
from trainer.data.problem import Problem
from trainer.data.profile import motion, others, pictures, rules
from trainer.data.profile.model import Camera, EpisodeFacts, Finding, Joint, Profile, Still, Task
from trainer.data.profile.motion import Column, Episode, Robot
from trainer.data.proposal import instructions
from trainer.data.reader import DatasetReader
from trainer.data.result_cache import ResultCache
from trainer.errors import DatasetError
from trainer.wrong_values import first_problem

Progress = Callable[[int, int], None]

STILLS = 6
"""Pictures of a camera in a profile."""
COURSES = 10
"""Episodes whose courses are kept."""
COURSE_POINTS = 60
SHOWN_WITH_PICTURES = 12
"""Findings of cameras that have pictures."""
_BY_SUBJECT = {rule.name for rule in (rules.UNREADABLE, rules.BLANK, rules.FROZEN, rules.STILL_RULE, rules.BLOCKED)}
USUAL_FPS = 30.0
"""Where the dataset says none: only its seconds are then wrong."""


def profile(
    folder: Path, name: str, progress: Progress, exclude: Sequence[str] = (), *, as_planes: bool = False
) -> Profile:
    """The profile of the dataset in ``folder``, called ``name``, without the episodes that ``exclude`` names.

    ``folder`` has a ``meta/modality.json`` with an annotation. ``progress(done, of)`` counts videos and episodes.
    ``as_planes`` is whether trainings on this machine convert frames on a GPU (``FrameStore.plan``).
    Raises ``DatasetError`` for one that can't be read at all, ``UsageError`` as ``trainer.data.exclusion`` does.
    """
    return _Pass(folder, name, progress, exclude, as_planes=as_planes).profile()


class _Pass:
    def __init__(self, folder: Path, name: str, progress: Progress, exclude: Sequence[str], *, as_planes: bool) -> None:
        self.name, self.progress, self.as_planes = name, progress, as_planes
        meta = leave_out(DatasetMeta.load(folder), exclude, name)
        cache = pippa_home() / "cache"
        self.memory = ResultCache(cache / "data.sqlite")
        self.frames = FrameStore(cache / "frames", frame_cache_bytes(), memory=self.memory)
        self.meta, self.config = meta, everything(meta)
        # One for each camera: what is wrong with one says nothing against the others.
        self.readers = {
            key: DatasetReader(folder, replace(self.config, video=(key,)), self.frames) for key in self.config.video
        }
        self.columns = list(_columns(self.meta, self.config))
        self.findings: list[Finding] = []
        self.sources: dict[tuple[int, str], tuple[Source, np.ndarray]] = {}

    def profile(self) -> Profile:
        """Read and judge."""
        episodes, hashes = self._tables()
        if not episodes:
            first = next(iter(self.findings)).message if self.findings else "it has none"
            raise DatasetError(f"{self.name}: no episode can be read: {first}.", "`pippa data check PATH` says more.")
        robot = motion.robot_of(self.columns, episodes, self.meta.info.fps or USUAL_FPS)
        self._look_at_pictures(episodes, robot)
        for episode in episodes:
            self.findings += motion.findings_of(episode, robot)
        self.findings += others.findings_among(episodes, robot)
        self.findings += _twice(hashes)
        tasks = {each.number: each.task for each in episodes}
        return Profile(
            name=self.name,
            robot=str((self.meta.info.model_extra or {}).get("robot_type") or ""),
            fps=self.meta.info.fps,
            frames=self.meta.total_frames,
            cameras=[self._camera(key, episodes) for key in self.config.video],
            tasks=_tasks(episodes),
            joints=[*robot.state.joints, *robot.action.joints],
            episodes=[
                EpisodeFacts(episode=each.episode_index, frames=each.length, task=tasks.get(each.episode_index, ""))
                for each in self.meta.episodes
            ],
            findings=collapsed(self.findings, len(self.meta.episodes)),
            courses=_courses(episodes, robot.state.joints, robot, self.findings),
        )

    def _tables(self) -> tuple[list[Episode], dict[int, str]]:
        """All episodes whose tables can be read; and their hashes."""
        found, hashes = [], {}
        for episode in self.meta.episodes:
            number = episode.episode_index
            table, problems = examine_table(self.meta, self.config, episode, "timestamp")
            if problems:
                self._unreadable(number, "", problems[0])
            if table is None:
                continue
            hashes[number] = episode_hash(table)
            found.append(_episode(number, table, self.columns))
            for key, reader in self.readers.items():
                try:
                    (source,) = reader.sources(number)
                    self.sources[number, key] = source, reader.positions(number, table)[:, 0]
                except DatasetError as error:
                    self._unreadable(number, key, Problem.of(error))
        return found, hashes

    def _unreadable(self, episode: int, camera: str, problem: Problem) -> None:
        message = problem.message.replace(f"{self.meta.path}/", "")
        self.findings.append(Finding(rule=rules.UNREADABLE.name, episode=episode, subject=camera, message=message))

    def _look_at_pictures(self, episodes: Sequence[Episode], robot: Robot) -> None:
        videos = [(source, self._bytes(key, source, rows)) for (_, key), (source, rows) in self.sources.items()]
        planned = self.frames.plan(videos, as_planes=self.as_planes) if videos else 0
        of = planned + len(episodes)
        with suppress(DatasetError):  # the look at its frames says which one
            self.frames.prepare(lambda done, _: self.progress(done, of))
        for done, episode in enumerate(episodes, start=1):
            for key in self.config.video:
                if (episode.number, key) in self.sources:
                    self._look(key, episode, robot)
            self.progress(planned + done, of)

    def _look(self, key: str, episode: Episode, robot: Robot) -> None:
        source, rows = self.sources[episode.number, key]
        try:
            seen = pictures.look(self.frames, source, rows, self.memory)
        except DatasetError as error:
            self._unreadable(episode.number, key, Problem.of(error))
            del self.sources[episode.number, key]
            return
        for finding in pictures.findings_of(key, seen, episode, robot):
            shown = [each for each in self.findings if each.stills]
            stills: list[Still] = []
            if len(shown) < SHOWN_WITH_PICTURES and finding.frames:
                stills = [
                    self._still(key, episode.number, row) for row in pictures.around(finding.frames, episode.rows)
                ]
            self.findings.append(finding.model_copy(update={"stills": stills}))

    def _bytes(self, key: str, source: Source, rows: np.ndarray) -> int:
        width, height = self.meta.camera(key).resolution
        count = len(rows) if isinstance(source, ImageColumn) else len(self.frames.index(source).pts)
        return count * width * height * 3

    def _camera(self, key: str, episodes: Sequence[Episode]) -> Camera:
        """With pictures from episodes over the whole dataset, from their beginnings to their ends."""
        having = [each for each in episodes if (each.number, key) in self.sources]
        chosen = [having[round(place)] for place in np.linspace(0, len(having) - 1, STILLS)] if having else []
        shares = np.linspace(0.1, 0.9, STILLS).tolist()
        stills = [
            self._still(key, each.number, round(share * (each.rows - 1)))
            for each, share in zip(chosen, shares, strict=bool(chosen))
        ]
        width, height = self.meta.camera(key).resolution
        return Camera(
            key=key, source=self.meta.modality.column("video", key), width=width, height=height, stills=stills
        )

    def _still(self, key: str, episode: int, row: int) -> Still:
        source, rows = self.sources[episode, key]
        return pictures.still(self.frames, source, int(rows[row]), episode, row)


def everything(meta: DatasetMeta) -> DataConfig:
    """A data config of all that ``meta/modality.json`` names and the data have. Raises ``DatasetError``."""
    cameras = []
    for key in meta.modality.video:
        with suppress(DatasetError):
            meta.camera(key)
            cameras.append(key)
    keys = {
        kind: [key for key in meta.modality.keys(kind) if _is_there(meta, kind, key)] for kind in ("state", "action")
    }
    annotations = meta.modality.keys("annotation")
    try:
        return DataConfig(
            name="everything",
            video=tuple(cameras),
            state=tuple(Feature(key) for key in keys["state"]),
            action=tuple(Feature(key) for key in keys["action"]),
            language=f"annotation.{next(iter([*instructions(annotations), *annotations]), '')}",
        )
    except ValidationError as error:
        raise DatasetError(
            f"{meta.path / 'meta'}: nothing that could be shown ({first_problem(error)}).",
            "`pippa data init PATH` proposes meta/modality.json from what info.json says.",
        ) from error


def _is_there(meta: DatasetMeta, kind: str, key: str) -> bool:
    """Whether the data have the columns of a key, as far as ``info.json`` says."""
    try:
        feature = meta.info.feature(meta.modality.column(kind, key))
    except ValueError:
        return True
    if feature is None:
        return False
    return feature.width is None or feature.width >= getattr(meta.modality, kind)[key].end


def _columns(meta: DatasetMeta, config: DataConfig) -> Iterator[Column]:
    for kind in ("state", "action"):
        for key in config.keys(kind):
            entry = getattr(meta.modality, kind)[key]
            names = joint_names(meta, kind, key) or [
                key if entry.width == 1 else f"{key}[{number}]" for number in range(entry.width)
            ]
            units = joint_units(meta, kind, key) or [""] * entry.width
            for number, (name, unit) in enumerate(zip(names, units, strict=True)):
                yield Column(kind, key, name, unit, number, entry.absolute)


def _episode(number: int, table: EpisodeTable, columns: Sequence[Column]) -> Episode:
    rows = len(table.texts)

    def side_by_side(kind: str, values: dict[str, np.ndarray]) -> np.ndarray:
        keys = dict.fromkeys(column.key for column in columns if column.kind == kind)
        parts = [values[f"{kind}.{key}"] for key in keys]
        return np.concatenate(parts, axis=1, dtype=np.float32) if parts else np.zeros((rows, 0), np.float32)

    return Episode(number, side_by_side("state", table.state), side_by_side("action", table.action), table.texts[0])


def _tasks(episodes: Sequence[Episode]) -> list[Task]:
    """Those of the episodes' first rows, the most frequent first."""
    rows: dict[str, list[int]] = defaultdict(list)
    for episode in episodes:
        rows[episode.task].append(episode.rows)
    found = [Task(text=text, episodes=len(each), frames=sum(each)) for text, each in rows.items()]
    return sorted(found, key=lambda task: -task.episodes)


def _twice(hashes: dict[int, str]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for number, content in hashes.items():
        if content in first:
            message = f"states and actions are those of episode {first[content]}, value for value"
            yield Finding(rule=rules.TWICE.name, episode=number, subject="", message=message)
        first.setdefault(content, number)


def collapsed(findings: Sequence[Finding], episodes: int) -> list[Finding]:
    """``findings`` in the rules' order; what most of the ``episodes`` have is reported once, for the whole dataset."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.rule, finding.subject if finding.rule in _BY_SUBJECT else ""].append(finding)
    kept = []
    for group in groups.values():
        single = [each for each in group if each.episode is not None]
        kept += [each for each in group if each.episode is None]
        numbers = {each.episode for each in single}
        enough = len(numbers) == episodes > 1 or episodes >= rules.MIN_EPISODES
        if enough and len(numbers) > rules.MOST_OF_THEM * episodes:
            message = f"in {len(numbers)} of {episodes} episodes; in episode {single[0].episode}: {single[0].message}"
            update = {"episode": None, "message": message, "figures": {"episodes": len(numbers)}}
            kept.append(single[0].model_copy(update=update))
        else:
            kept += single
    order = {rule.name: place for place, rule in enumerate(rules.RULES)}
    return sorted(kept, key=lambda each: (order[each.rule], -1 if each.episode is None else each.episode))


def _courses(
    episodes: Sequence[Episode], joints: Sequence[Joint], robot: Robot, findings: Sequence[Finding]
) -> dict[str, dict[int, list[float]]]:
    """Of each state joint that moves, over episodes from all of the dataset, those with findings first."""
    suspects = {each.episode for each in findings if each.rule in ("far", "length", "jump", "still")}
    chosen = [each for each in episodes if each.number in suspects][: COURSES // 2]
    rest = [each for each in episodes if each.number not in {one.number for one in chosen}]
    spread = np.linspace(0, len(rest) - 1, min(COURSES - len(chosen), len(rest)))
    chosen += [rest[round(place)] for place in spread]
    found = {}
    for place, _ in enumerate(joints):
        if robot.state.moves[place]:
            column = robot.state.columns[place]
            found[f"{column.title} ({column.unit})" if column.unit else column.title] = {
                each.number: [
                    float(each.state[row, place])
                    for row in np.linspace(0, each.rows - 1, min(COURSE_POINTS, each.rows)).round().astype(int)
                ]
                for each in chosen
            }
    return found
