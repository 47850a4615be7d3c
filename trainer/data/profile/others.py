"""The rules that hold an episode against the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.data.profile import rules
from trainer.data.profile.model import Finding
from trainer.data.profile.motion import Episode, Robot, lag_of, most_moving, series


def findings_among(episodes: Sequence[Episode], robot: Robot) -> Iterator[Finding]:
    """What the rules say that need all ``episodes``."""
    for group in _groups(episodes):
        yield from _lengths(group, robot)
        yield from _far(group, robot)
    yield from _still(episodes, robot)
    yield from _lags(episodes, robot)


def _groups(episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Those of one task, where there are enough to say what is usual; the others together."""
    tasks: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        tasks[episode.task].append(episode)
    enough = [group for group in tasks.values() if len(group) >= rules.MIN_EPISODES]
    rest = [each for group in tasks.values() if len(group) < rules.MIN_EPISODES for each in group]
    return [*enough, *([rest] if len(rest) >= rules.MIN_EPISODES else [])]


def _scores(values: np.ndarray) -> np.ndarray:
    """Modified z-scores ``[N, …]``: distances from the median, in units of the usual one (Iglewicz and Hoaglin)."""
    apart = values - np.median(values, axis=0)
    usual = np.median(np.abs(apart), axis=0)
    return 0.6745 * apart / np.maximum(usual, 1e-9)


def _lengths(group: Sequence[Episode], robot: Robot) -> Iterator[Finding]:
    rows = np.array([episode.rows for episode in group], dtype=np.float64)
    scores, median = _scores(np.log(rows)), float(np.median(rows))
    for episode, count, score in zip(group, rows.tolist(), scores.tolist(), strict=True):
        times = count / median
        if abs(score) > rules.FAR and not 1 / rules.LENGTH_TIMES < times < rules.LENGTH_TIMES:
            yield Finding(
                rule=rules.LENGTH.name,
                episode=episode.number,
                subject="",
                message=f"{count:.0f} frames ({count / robot.fps:.1f} s), {times:.2g} times the median of {median:.0f}",
                figures={"frames": count, "median": median, "score": score},
            )


def _far(group: Sequence[Episode], robot: Robot) -> Iterator[Finding]:
    usually = robot.state if robot.state.columns else robot.action
    kind = usually.columns[0].kind if usually.columns else "state"
    if not usually.moves.any():
        return
    means = np.stack([np.nan_to_num(each.of(kind)).mean(axis=0, dtype=np.float64) for each in group]) / usually.scale
    apart, scores = means - np.median(means, axis=0), _scores(means)
    out = (np.abs(scores) > rules.FAR) & (np.abs(apart) > rules.FAR_MEAN) & usually.moves & ~usually.switches
    for number, episode in enumerate(group):
        places = np.flatnonzero(out[number])
        if not len(places):
            continue
        place = int(places[np.argmax(np.abs(apart[number, places]))])
        column = usually.columns[place]
        others = f" and of {len(places) - 1} more joints" if len(places) > 2 else " and of one more" * (len(places) > 1)
        mean, median = (float(each[place] * usually.scale[place]) for each in (means[number], np.median(means, axis=0)))
        yield Finding(
            rule=rules.FAR_RULE.name,
            episode=episode.number,
            subject=column.title,
            message=f"the mean of {column.title}{others} is far from the other episodes': {mean:.4g}, the median is "
            f"{median:.4g}, {abs(apart[number, place]):.0%} of the range away",
            figures={"mean": mean, "median": median, "score": float(scores[number, place])},
            series=series(episode, robot, kind, place),
        )


def _still(episodes: Sequence[Episode], robot: Robot) -> Iterator[Finding]:
    never = {kind: ~usually.moves for kind, usually in robot.kinds}
    if names := _named(robot, never):
        yield Finding(
            rule=rules.STILL_RULE.name,
            episode=None,
            subject="",
            message=f"in no episode: {names}",
            figures={"columns": float(sum(each.sum() for each in never.values()))},
        )
    if len(episodes) < rules.MIN_EPISODES:
        return
    once = {kind: _still_once(kind, episodes, robot) for kind, _ in robot.kinds}
    for number, episode in enumerate(episodes):
        here = {kind: each[number] for kind, each in once.items()}
        if not (names := _named(robot, here)):
            continue
        kind = next(kind for kind, each in here.items() if each.any())
        yield Finding(
            rule=rules.STILL_RULE.name,
            episode=episode.number,
            subject="",
            message=f"in all {episode.rows} frames: {names}; moves in nearly all other episodes",
            frames=(0, episode.rows - 1),
            figures={"columns": float(sum(each.sum() for each in here.values()))},
            series=series(episode, robot, kind, int(np.argmax(here[kind]))),
        )


def _named(robot: Robot, chosen: dict[str, np.ndarray]) -> str:
    """Columns by name, whole keys by theirs: ``neck, right_arm elbow (state only)``."""
    found: dict[str, list[str]] = {}
    for kind, usually in robot.kinds:
        for key in dict.fromkeys(column.key for column in usually.columns):
            own = [place for place, column in enumerate(usually.columns) if column.key == key]
            titles = [usually.columns[place].title for place in own if chosen[kind][place]]
            for name in [key] if len(titles) == len(own) else titles:
                found.setdefault(name, []).append(kind)
    return ", ".join(name if len(kinds) > 1 else f"{name} ({kinds[0]} only)" for name, kinds in found.items())


def _still_once(kind: str, episodes: Sequence[Episode], robot: Robot) -> np.ndarray:
    """Which columns stay still in which episode and move in nearly all others, ``[N, D]``."""
    usually = robot.state if kind == "state" else robot.action
    ranges = np.stack([np.ptp(np.nan_to_num(each.of(kind)), axis=0) for each in episodes]) / usually.scale
    still = ranges < rules.STILL
    # One that rests in several episodes is simply not needed for every task.
    elsewhere = (~still).sum(axis=0) >= rules.STILL_ELSEWHERE * (len(episodes) - 1)
    return still & elsewhere & usually.moves & ~usually.switches


def _lags(episodes: Sequence[Episode], robot: Robot) -> Iterator[Finding]:
    known = {episode.number: found for episode in episodes if (found := lag_of(episode, robot))}
    if not known:
        return
    median = float(np.median([lag for lag, _ in known.values()]))
    by_number = {episode.number: episode for episode in episodes}
    for number, (lag, fit) in known.items():
        other = len(known) >= rules.MIN_EPISODES and abs(lag - median) >= max(2, rules.LATE_APART * robot.fps)
        seconds = lag / robot.fps
        if lag >= 0 and seconds <= rules.LATE_SECONDS and not other:
            continue
        when = "before" if lag < 0 else "after"
        usual = f", in most episodes {median / robot.fps:.2f} s after it" if other else ""
        yield Finding(
            rule=rules.LAG.name,
            episode=number,
            subject="",
            message=f"the state moves {abs(seconds):.2f} s ({abs(lag)} rows) {when} the action{usual}",
            figures={"seconds": seconds, "rows": lag, "correlation": fit, "usual rows": median},
            series=most_moving(by_number[number], robot),
        )
