"""The evaluation of one checkpoint on one dataset: its figures, per joint and per episode, and its ablations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from trainer.config.data_options import VideoAlignment
from trainer.data.config_file import to_json
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.joints import joint_names, joint_units
from trainer.evaluation.ablations import ablation, changes
from trainer.evaluation.dataset import Chosen, EvaluationDataset
from trainer.evaluation.open_loop import Trajectory, evaluate_episodes, summarise
from trainer.evaluation.predictor import Predictor
from trainer.store.evaluation import FULL_STEPS, SUBSET_EPISODES, Ablation, EpisodeFigures, Evaluation, JointFigures

if TYPE_CHECKING:
    from trainer.data.reader import DatasetReader
    from trainer.gr00t.policy import Policy

Say = Callable[[str, int, int], None]
"""Hears what was just measured, and how many of how many episodes are done."""


@dataclass(frozen=True)
class Protocol:
    """How episodes are compared."""

    steps: int = FULL_STEPS
    action_horizon: int | None = None
    keys: tuple[str, ...] = ()
    seed: int = 0
    full: bool = True
    """Whether it is the full protocol, by which the best checkpoint is chosen."""


def evaluate_checkpoint(
    policy: Policy,
    data: EvaluationDataset,
    episodes: Sequence[Chosen],
    protocol: Protocol = Protocol(),
    *,
    alignment: VideoAlignment = "timestamp",
    all_count: bool = False,
    ablate: bool = False,
    say: Say = lambda *_: None,
) -> tuple[Evaluation, list[Trajectory]]:
    """Evaluate ``policy`` on ``episodes`` of ``data``; the trajectories of those that count come with it.

    Those that it was not trained on count, where there are any; with ``all_count`` all of them. With ``ablate`` also
    with each input taken away, on the first of them. Raises ``EngineError`` for a policy
    that predicts no numbers.
    """
    config = policy.data_config
    reader = data.reader(config, alignment)
    keys = list(protocol.keys) or config.keys("action")
    predictor = Predictor(policy, protocol.seed)
    _plan_frames(reader, [each.episode for each in episodes])

    mixed = all_count and len({each.trained_on for each in episodes}) > 1
    counting = [each for each in episodes if mixed or not each.trained_on] or list(episodes)
    others = [each for each in episodes if each not in counting]
    first = counting[:SUBSET_EPISODES]
    taken = list(changes(reader, config, [e.episode for e in first], reader.trajectory_ids)) if ablate else []
    done, of = count(1), len(counting) + len(others) + len(taken) * len(first)

    def run(chosen: Sequence[Chosen], change: object = None, what: str = "") -> list[Trajectory]:
        return evaluate_episodes(
            predictor,
            reader,
            [each.episode for each in chosen],
            keys=keys,
            steps=protocol.steps,
            action_horizon=protocol.action_horizon or config.action_horizon,
            relative=[key for key in keys if not reader.meta.modality.action[key].absolute],
            change=change,  # pyrefly: ignore[bad-argument-type]
            on_episode=lambda found: say(f"episode {found.episode}{what}: MSE {found.mse:.6g}", next(done), of),
        )

    trajectories, training = run(counting), run(others)
    metrics = summarise(trajectories)
    named = dict(zip((each.episode for each in [*counting, *others]), [*trajectories, *training], strict=True))
    found = Evaluation(
        dataset=data.ref,
        data_config=config_hash(config),
        full=protocol.full,
        mixed=mixed,
        action_horizon=protocol.action_horizon or config.action_horizon,
        denoising_steps=policy.denoising_steps,
        episodes=[
            EpisodeFigures(
                hash=each.hash,
                episode=each.episode,
                frames=len(named[each.episode].demonstrated),
                trained_on=each.trained_on,
                mse=named[each.episode].mse,
                hold_still_mse=named[each.episode].hold_still_mse,
            )
            for each in episodes
        ],
        joints=_joints(reader.meta, keys, trajectories),
        mse=metrics["open_loop_mse"],
        hold_still_mse=metrics["hold_still_mse"],
        action_variance=metrics["action_variance"],
        flow_matching_loss=float(
            np.mean([predictor.loss(reader, each.episode, each.queried) for each in trajectories])
        ),
        training_mse=summarise(training)["open_loop_mse"] if training else None,
        training_hold_still_mse=summarise(training)["hold_still_mse"] if training else None,
    )
    if ablate:
        true_mse = summarise(trajectories[: len(first)])["open_loop_mse"]
        ablations: list[Ablation] = []
        for input_, kind, change in taken:
            without = run(first, change, f", {input_.replace('.', ' ')} {kind}")
            ablations.append(ablation(input_, kind, summarise(without)["open_loop_mse"], true_mse))
        found = found.model_copy(update={"ablations": ablations})
    return found, [replace(each, names=_names(reader.meta, keys, each.names)) for each in trajectories]


def config_hash(config: DataConfig) -> str:
    """What tells whether two data configs are the same, whatever they are called."""
    return hashlib.sha256(to_json(replace(config, name="any")).encode()).hexdigest()[:12]


def _joints(meta: DatasetMeta, keys: Sequence[str], trajectories: Sequence[Trajectory]) -> list[JointFigures]:
    errors = np.mean([each.squared_errors.mean(axis=0) for each in trajectories], axis=0)
    still = np.mean([((each.demonstrated - each.held) ** 2).mean(axis=0) for each in trajectories], axis=0)
    variance = np.concatenate([each.demonstrated for each in trajectories]).var(axis=0)
    units = [unit for key in keys for unit in joint_units(meta, "action", key) or [None] * _width(meta, key)]
    return [
        JointFigures(name=name, unit=unit, mse=float(mse), hold_still_mse=float(held), variance=float(spread))
        for name, unit, mse, held, spread in zip(
            _names(meta, keys, trajectories[0].names), units, errors, still, variance, strict=True
        )
    ]


def _names(meta: DatasetMeta, keys: Sequence[str], otherwise: Sequence[str]) -> tuple[str, ...]:
    """The joints' own names; those of the keys' dimensions where they have none."""
    names: list[str] = []
    for key in keys:
        start = len(names)
        names += joint_names(meta, "action", key) or otherwise[start : start + _width(meta, key)]
    return tuple(names) if len(set(names)) == len(names) else tuple(otherwise)


def _width(meta: DatasetMeta, key: str) -> int:
    return meta.modality.action[key].width


def _plan_frames(reader: DatasetReader, episodes: Sequence[int]) -> None:
    """Decode each video of these episodes once, if the cache has room."""
    from trainer.data.image_columns import ImageColumn

    videos = []
    for episode in episodes:
        for key, source in zip(reader.config.video, reader.sources(episode), strict=True):
            width, height = reader.meta.camera(key).resolution
            count = reader.lengths[episode] if isinstance(source, ImageColumn) else len(reader.frames.index(source).pts)
            videos.append((source, count * width * height * 3))
    reader.frames.plan(videos)
