"""Does it look, does it listen: the error of a policy when one of its inputs is taken away.

What stands in an input's place is real wherever it can be, so that a growing error means that the policy used what it
lost, and not that it was shown something it never saw: another episode's camera, another task's instruction, the state
of the episode's first frame. A black camera is shown as well; it alone decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trainer.data.configs import DataConfig
from trainer.evaluation.open_loop import Change, ObservationSource, Step
from trainer.store.evaluation import Ablation

NO_INSTRUCTION = ""

Named = tuple[str, str, Change]
"""The input, what happens to it, and the change."""


def changes(
    source: ObservationSource, config: DataConfig, episodes: Sequence[int], all_: Sequence[int]
) -> Iterator[Named]:
    """Every ablation of a policy with ``config`` on ``episodes``; ``all_`` are those of the dataset.

    An instruction is swapped for another task's where the dataset has one, else left out.
    """
    instruction = _other_instructions(source, config.language, episodes, all_)
    if instruction:
        yield "instruction", "swapped", _replaced(config.language, lambda episode, _: [instruction[episode]])
    else:
        yield "instruction", "none", _replaced(config.language, lambda _, __: [NO_INSTRUCTION])
    first = _Remembered(source)
    for key in config.video:
        name = f"video.{key}"
        if other := _other_episodes(episodes, all_):
            yield f"camera.{key}", "swapped", _replaced(name, lambda e, f, n=name: _at(source, other[e], f)[n])
        yield f"camera.{key}", "frozen", _replaced(name, lambda e, _, n=name: first(e)[n])
        yield f"camera.{key}", "blank", _replaced(name, lambda e, _, n=name: first(e)[n] * 0)
    if config.state:
        names = [f"state.{key}" for key in config.keys("state")]

        def frozen(episode: int, _frame: int, step: Step) -> Step:
            return {**step, **{name: first(episode)[name] for name in names}}

        yield "state", "frozen", frozen


def ablation(input_: str, change: Any, mse: float, true_mse: float) -> Ablation:
    """The result of one, beside the error with the true input."""
    relative = mse / true_mse - 1 if true_mse > 0 else 0.0
    return Ablation(input=input_, change=change, mse=mse, relative=relative)


def _replaced(name: str, value: Callable[[int, int], Any]) -> Change:
    return lambda episode, frame, step: {**step, name: value(episode, frame)}


class _Remembered:
    """The first step of an episode, read once."""

    def __init__(self, source: ObservationSource) -> None:
        self._source = source
        self._steps: dict[int, Mapping[str, Any]] = {}

    def __call__(self, episode: int) -> Mapping[str, Any]:
        if episode not in self._steps:
            self._steps = {episode: self._source.get_step_data(episode, 0)}
        return self._steps[episode]


def _at(source: ObservationSource, episode: int, frame: int) -> Mapping[str, Any]:
    """The step at ``frame``, or the last one of a shorter episode."""
    return source.get_step_data(episode, min(frame, source.lengths[episode] - 1))


def _other_episodes(episodes: Sequence[int], all_: Sequence[int]) -> dict[int, int]:
    """For each episode the one half the dataset away: neighbours are often alike. Empty where there is one alone."""
    if len(all_) < 2:
        return {}
    position = {episode: number for number, episode in enumerate(all_)}
    return {episode: all_[(position[episode] + len(all_) // 2) % len(all_)] for episode in episodes}


def _other_instructions(
    source: ObservationSource, language: str, episodes: Sequence[int], all_: Sequence[int]
) -> dict[int, str]:
    """For each episode an instruction of another one that differs from its own; empty where all are the same."""
    detail = {
        episode: str(source.get_step_data(episode, 0)[language][0]) for episode in [*episodes, *all_[:_LOOKED_AT]]
    }
    texts = list(dict.fromkeys(detail.values()))
    if len(texts) < 2:
        return {}
    return {episode: texts[(texts.index(detail[episode]) + 1) % len(texts)] for episode in episodes}


_LOOKED_AT = 50
"""Episodes whose instruction is looked at."""
