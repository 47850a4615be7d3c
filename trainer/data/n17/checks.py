"""What a dataset must be for a training of GR00T N1.7, beside what every training asks of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from trainer.data.data_config import DataConfig, Feature
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.n17 import poses
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.problem import Problem

_PUBLISHED = ProcessorSettings()


def as_checked(config: DataConfig) -> DataConfig:
    """``config`` in the terms of the shared checks: which values are scaled by their column's statistics, and how wide
    states and actions may be together.
    """

    def scaled(feature: Feature) -> Feature:
        if feature.relative_to:  # by other statistics, which are computed
            return Feature(feature.key)
        own = feature.sin_cos or feature.normalise
        return Feature(feature.key, feature.normalise if own else "min_max", sin_cos=feature.sin_cos)

    return replace(
        config,
        state=tuple(map(scaled, config.state)),
        action=tuple(map(scaled, config.action)),
        max_state_dim=2 * _PUBLISHED.max_state_dim,  # sines and cosines count twice there; see ``_widths``
        max_action_dim=_PUBLISHED.max_action_dim,
    )


def check(meta: DatasetMeta, config: DataConfig) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings. The keys of ``config`` are there: the shared checks have looked."""
    return [*_widths(meta, config), *_relative(meta, config), *_too_short(meta, config)], list(_partly(meta, config))


def _width(meta: DatasetMeta, modality: str, key: str) -> int:
    entry = getattr(meta.modality, modality)[key]
    return entry.end - entry.start


def _widths(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """The base model says more exactly; this is what the published ones take."""
    for modality in ("state", "action"):
        width = sum(_width(meta, modality, key) for key in config.keys(modality))
        if width > (limit := getattr(_PUBLISHED, f"max_{modality}_dim")):
            yield Problem(
                f"The {modality} keys of {config.name} have {width} dimensions together; the model takes {limit}",
                f"Use a data config with fewer {modality} keys.",
            )


def _relative(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """A relative action and the state it is relative to, or the pose that both are."""
    file = meta.path / "meta/modality.json"
    for feature in config.action:
        if not feature.relative_to:
            continue
        width, state = _width(meta, "action", feature.key), _width(meta, "state", feature.relative_to)
        if width != state:
            yield Problem(
                f"{file}: action.{feature.key} has {width} dimensions, but state.{feature.relative_to}, which it is "
                f"relative to, has {state}",
                "Make it relative to the state of the same joints, or leave relative_to out of the data config.",
            )
        elif feature.pose and width != (wanted := poses.width(feature.pose)):
            yield Problem(
                f"{file}: action.{feature.key} has {width} dimensions; a pose of {feature.pose} has {wanted}",
                "Correct start and end, or the pose in the data config.",
            )


def _too_short(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    if meta.episodes and all(episode.length < config.action_horizon for episode in meta.episodes):
        yield Problem(
            f"{meta.path / 'meta/episodes.jsonl'}: no episode is as long as the {config.action_horizon} steps that are "
            "predicted at once",
            "Record longer episodes, or declare a smaller action_horizon.",
        )


def _partly(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """Episodes that upstream drops without a word."""
    short = [episode.episode_index for episode in meta.episodes if episode.length < config.action_horizon]
    if short and len(short) < len(meta.episodes):
        shown = ", ".join(map(str, short[:5])) + (", …" if len(short) > 5 else "")
        yield Problem(
            f"{meta.path / 'meta/episodes.jsonl'}: {len(short)} of {len(meta.episodes)} episodes ({shown}) are shorter "
            f"than the {config.action_horizon} steps that are predicted at once, and are not trained on",
            "Declare a smaller action_horizon to use them.",
        )
