"""The rules on states and actions, on one episode at a time against what is usual in the dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trainer.data.profile import rules
from trainer.data.profile.model import Finding, Joint, Series

_HOLDS = re.compile(r"grip|hand|finger|thumb|claw|jaw|effector", re.IGNORECASE)


class Column(NamedTuple):
    """One dimension of the states or actions."""

    kind: str
    key: str
    name: str
    unit: str
    number: int
    """Its place in ``key``."""
    absolute: bool

    @property
    def title(self) -> str:
        """For people: ``left_arm elbow``; the name alone where the key says no more."""
        return self.name if self.name.startswith(self.key) else f"{self.key} {self.name}"


@dataclass(frozen=True)
class Episode:
    """One episode, read. T rows."""

    number: int
    state: np.ndarray
    """float32 ``[T, S]``, all keys side by side."""
    action: np.ndarray
    """float32 ``[T, A]``."""
    task: str

    @property
    def rows(self) -> int:
        """T."""
        return len(self.state)

    def of(self, kind: str) -> np.ndarray:
        """``state`` or ``action``."""
        return self.state if kind == "state" else self.action


class Usual(NamedTuple):
    """What is usual for the columns of one kind, over all episodes; each ``[D]``."""

    columns: list[Column]
    joints: list[Joint]
    scale: np.ndarray
    """The range that movements are shares of; never zero."""
    moves: np.ndarray
    steps: np.ndarray
    """``JUMP_QUANTILE`` of the changes from row to row, as shares of the range."""
    switches: np.ndarray


def usual(columns: Sequence[Column], episodes: Sequence[np.ndarray]) -> Usual:
    """What is usual for ``columns``; ``episodes`` are ``[T, D]`` each."""
    joints, levels, spans = [], [], []
    for place, column in enumerate(columns):
        values = np.concatenate([each[:, place] for each in episodes])
        values = np.sort(values[np.isfinite(values)]) if np.isfinite(values).any() else np.zeros(1, np.float32)
        low, high = np.quantile(values, (0.01, 0.99))
        mean = float(values.mean(dtype=np.float64))
        ends = float(values[0]), float(values[-1])
        joints.append(
            Joint(
                kind=column.kind,
                key=column.key,
                name=column.name,
                unit=column.unit,
                min=ends[0],
                q01=float(low),
                mean=mean,
                q99=float(high),
                max=ends[1],
            )
        )
        levels.append(1 + int(np.count_nonzero(np.diff(values))))
        spans.append(float(high - low) or ends[1] - ends[0])
    widest = {
        key: max(span for each, span in zip(columns, spans, strict=True) if each.key == key)
        for key in {column.key for column in columns}
    }
    # What barely moves, for its part of the robot or beside all of it, has noise as large as its range.
    scale = np.array(
        [max(span, 0.05 * widest[column.key], 0.02 * max(spans)) for column, span in zip(columns, spans, strict=True)]
    )
    moves = np.array(
        [
            joint.max - joint.min > rules.STILL * widest[column.key]
            for column, joint in zip(columns, joints, strict=True)
        ],
        dtype=bool,
    )
    scale = np.where(scale > 0, scale, 1.0)
    changes = [np.abs(np.diff(each, axis=0)) / scale for each in episodes if len(each) > 1]
    pooled = np.concatenate(changes) if changes else np.zeros((1, len(columns)))
    steps = np.quantile(np.nan_to_num(pooled), rules.JUMP_QUANTILE, axis=0) if len(columns) else np.zeros(0)
    return Usual(list(columns), joints, scale, moves, steps, np.array(levels) <= rules.SWITCH_LEVELS)


class Robot(NamedTuple):
    """What is usual for states and actions."""

    state: Usual
    action: Usual
    pairs: np.ndarray
    """``[P, 2]``: columns of state and action that mean the same joint, both absolute."""
    fps: float

    def rows_in(self, seconds: float) -> int:
        """How many rows ``seconds`` take."""
        return max(round(seconds * self.fps), 2)

    def movement(self, episode: Episode) -> np.ndarray:
        """All columns that move, as shares of their ranges, ``[T, D]``."""
        parts = [episode.of(kind)[:, each.moves] / each.scale[each.moves] for kind, each in self.kinds]
        return np.concatenate(parts, axis=1)

    def seen_movement(self, episode: Episode) -> np.ndarray:
        """What a camera could see of it: the state alone, and the action where there is no state."""
        kind, usually = self.kinds[0] if self.state.columns else self.kinds[1]
        return episode.of(kind)[:, usually.moves] / usually.scale[usually.moves]

    @property
    def kinds(self) -> tuple[tuple[str, Usual], ...]:
        """Both, by name."""
        return ("state", self.state), ("action", self.action)


def robot_of(columns: Sequence[Column], episodes: Sequence[Episode], fps: float) -> Robot:
    """What is usual over ``episodes``."""
    parts = {kind: [each for each in columns if each.kind == kind] for kind in ("state", "action")}
    state, action = (usual(parts[kind], [each.of(kind) for each in episodes]) for kind in parts)
    places = {(each.key, each.number): place for place, each in enumerate(state.columns) if each.absolute}
    pairs = [
        (places[each.key, each.number], place)
        for place, each in enumerate(action.columns)
        if each.absolute and (each.key, each.number) in places
    ]
    return Robot(state, action, np.array(pairs, dtype=np.int64).reshape(-1, 2), fps)


def findings_of(episode: Episode, robot: Robot) -> Iterator[Finding]:
    """What the rules say that need one episode and what is usual."""
    if episode.rows < 2:
        return
    for rule in (_jumps, _blocked, _copies, _idle):
        yield from rule(episode, robot)


def _jumps(episode: Episode, robot: Robot) -> Iterator[Finding]:
    """One finding of an episode: what was lost or late shows in several joints at once."""
    found = []
    for kind, usually in robot.kinds:
        steps = np.nan_to_num(np.abs(np.diff(episode.of(kind), axis=0)) / usually.scale)
        most = np.maximum(rules.JUMP, rules.JUMP_TIMES * usually.steps)
        jumps = (steps > most) & ~usually.switches & usually.moves
        for place in np.flatnonzero(jumps.any(axis=0)).tolist():
            row = int(np.argmax(np.where(jumps[:, place], steps[:, place], 0)))
            found.append((float(steps[row, place]), kind, place, row, int(jumps[:, place].sum())))
    if not found:
        return
    share, kind, place, row, _ = max(found)
    usually = robot.state if kind == "state" else robot.action
    values, column = episode.of(kind)[:, place], usually.columns[place]
    rows = sum(count for *_, count in found)
    change = abs(float(values[row + 1] - values[row]))
    wraps = any(abs(change - turn) < 0.05 * turn for turn in (2 * np.pi, 360.0))
    yield Finding(
        rule=rules.JUMP_RULE.name,
        episode=episode.number,
        subject=column.title,
        message=f"{kind} of {column.title} goes from {values[row]:.4g} to {values[row + 1]:.4g} from frame {row} to "
        f"{row + 1}, {share:.0%} of its range"
        + (f"; {rows} jumps in all, in {len(found)} column{'s' * (len(found) > 1)}" if rows > 1 else "")
        + ("; an angle that wraps around looks like that" if wraps else ""),
        frames=(row, row + 1),
        figures={"share of range": share, "usual": float(usually.steps[place]), "jumps": rows},
        series=series(episode, robot, kind, place),
    )


def _blocked(episode: Episode, robot: Robot) -> Iterator[Finding]:
    window = robot.rows_in(rules.BLOCKED_SECONDS)
    if episode.rows < window:
        return
    for place, other in robot.pairs:
        column = robot.state.columns[place]
        if _HOLDS.search(column.title) or not robot.state.moves[place]:
            continue
        scale = robot.state.scale[place]
        values, asked = episode.state[:, place] / scale, episode.action[:, other] / scale
        held = rolling_range(values[:, None], window)[:, 0] < rules.BLOCKED_MOVE
        beyond = asked - values
        apart = np.minimum(rolling(np.minimum, beyond, window), 1e9) > rules.BLOCKED_ASKED
        apart |= rolling(np.maximum, beyond, window) < -rules.BLOCKED_ASKED
        if stretch := longest(held & apart, window):
            first, last = stretch
            more = float(np.median(np.abs(beyond[first : last + 1])))
            yield Finding(
                rule=rules.BLOCKED.name,
                episode=episode.number,
                subject=column.title,
                message=f"{column.title} stays at {episode.state[first, place]:.4g} for {_seconds(stretch, robot)}, "
                f"while the action asks for {more:.0%} of its range more",
                frames=stretch,
                figures={"seconds": (last - first + 1) / robot.fps, "share of range": more},
                series=series(episode, robot, "state", int(place)),
            )


def _copies(episode: Episode, robot: Robot) -> Iterator[Finding]:
    """Of whole keys: single joints that are commanded to stay are no copies."""
    if not len(robot.pairs):
        return
    state, action = robot.pairs.T
    moving = robot.state.moves[state]
    apart = np.abs(episode.state[:, state] - episode.action[:, action]) / robot.state.scale[state]
    if (
        moving.any()
        and apart[:, moving].max() < 1e-6
        and rolling_range(episode.state[:, state], episode.rows).max() > 0
    ):
        yield Finding(
            rule=rules.COPY.name,
            episode=episode.number,
            subject="",
            message=f"the action is the state of the same row in all {int(moving.sum())} joints that move",
        )


def _idle(episode: Episode, robot: Robot) -> Iterator[Finding]:
    window, values = robot.rows_in(rules.IDLE_SECONDS), robot.movement(episode)
    if episode.rows < window or not values.shape[1]:
        return
    quiet = (rolling_range(values, window) < rules.IDLE_MOVE).all(axis=1)
    found = stretches(np.asarray(quiet), window)
    if not found:
        return
    first, last = max(found, key=lambda each: each[1] - each[0])
    total = sum(end - start + 1 for start, end in found)
    where = "at the beginning" if first == 0 else "at the end" if last == episode.rows - 1 else "in between"
    more = f"; {total / robot.fps:.1f} s in {len(found)} stretches" if len(found) > 1 else ""
    yield Finding(
        rule=rules.IDLE.name,
        episode=episode.number,
        subject="",
        message=f"nothing moves for {_seconds((first, last), robot)} {where}{more}, {total / episode.rows:.0%} of the "
        "episode",
        frames=(first, last),
        figures={"seconds": total / robot.fps, "share of episode": total / episode.rows},
        series=most_moving(episode, robot),
    )


def lag_of(episode: Episode, robot: Robot) -> tuple[int, float] | None:
    """Rows that the state comes after the action, and how well they then fit; None where that can't be computed."""
    if not len(robot.pairs):
        return None
    state, action = robot.pairs.T
    moving = robot.state.moves[state] & robot.action.moves[action]
    scale = robot.state.scale[state][moving]
    most = min(robot.rows_in(rules.LATE_SEARCH), episode.rows // 4)
    if not moving.any() or most < 1:
        return None
    ours = np.diff(episode.state[:, state[moving]] / scale, axis=0)
    theirs = np.diff(episode.action[:, action[moving]] / scale, axis=0)
    found: dict[int, float] = {}
    for lag in range(-most, most + 1):
        after = ours[max(lag, 0) : len(ours) + min(lag, 0)]
        before = theirs[max(-lag, 0) : len(theirs) - max(lag, 0)]
        size = float(np.sqrt((after**2).sum() * (before**2).sum()))
        found[lag] = float((after * before).sum()) / size if size > 0 else 0.0
    best = max(found, key=lambda lag: (round(found[lag], 6), -abs(lag)))
    return (best, found[best]) if found[best] >= rules.LATE_CORRELATION else None


def series(episode: Episode, robot: Robot, kind: str, place: int) -> Series:
    """The course of a joint; of its state and its action where both mean the same."""
    column = (robot.state if kind == "state" else robot.action).columns[place]
    paired = {"state": robot.pairs[:, 0], "action": robot.pairs[:, 1]}
    courses = {kind: place}
    for pair in np.flatnonzero(paired[kind] == place):
        courses = {each: int(paired[each][pair]) for each in paired}
    return Series(
        title=f"{column.title} ({column.unit})" if column.unit else column.title,
        **{each: [float(value) for value in episode.of(each)[:, at]] for each, at in courses.items()},
    )


def most_moving(episode: Episode, robot: Robot) -> Series:
    """The course of the joint that moves most in an episode, of those with a state where there are any."""
    kind, usually = robot.kinds[0] if robot.state.columns else robot.kinds[1]
    ranges = np.ptp(np.nan_to_num(episode.of(kind)), axis=0) / usually.scale
    return series(episode, robot, kind, int(np.argmax(ranges)))


def rolling(operation: Callable[[np.ndarray, np.ndarray], np.ndarray], values: np.ndarray, window: int) -> np.ndarray:
    """``operation`` (minimum or maximum) over each ``window`` rows of ``[T, …]``: ``[T - window + 1, …]``."""
    size = 1
    while size * 2 <= window:
        values = operation(values[:-size], values[size:])
        size *= 2
    rest = window - size
    return operation(values[:-rest], values[rest:]) if rest else values


def rolling_range(values: np.ndarray, window: int) -> np.ndarray:
    """Highest less lowest of each ``window`` rows."""
    return rolling(np.maximum, values, window) - rolling(np.minimum, values, window)


def stretches(windows: np.ndarray, window: int) -> list[tuple[int, int]]:
    """The rows, first and last, that ``window`` rows from a true place of ``windows`` on cover, joined."""
    found: list[tuple[int, int]] = []
    for start in np.flatnonzero(windows).tolist():
        end = start + window - 1
        if found and start <= found[-1][1] + 1:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def longest(windows: np.ndarray, window: int) -> tuple[int, int] | None:
    """The longest of ``stretches``; None where there is none."""
    return max(stretches(windows, window), key=lambda each: each[1] - each[0], default=None)


def _seconds(stretch: tuple[int, int], robot: Robot) -> str:
    return f"{(stretch[1] - stretch[0] + 1) / robot.fps:.1f} s (frames {stretch[0]} to {stretch[1]})"
