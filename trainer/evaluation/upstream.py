"""Open-loop evaluation by upstream's own ``scripts/eval_policy.py``, for N1.7 ``gr00t/eval/open_loop_eval.py``, in the
images that carry upstream's engine.

``python -m trainer.evaluation.upstream COMMAND … --model-path …``: the flags are those ``trainer run`` gives to any
``PIPPA_EVALUATE_COMMAND``, ``COMMAND`` is upstream's script with its separate environment's Python. Its printed errors
become the ``evaluation`` event of ``trainer evaluate``, with the same yardstick beside them. No torch is imported here.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.configs import get_data_config
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.tables import as_matrix
from trainer.errors import EngineError, PippaError
from trainer.events import Emitter, EvaluationEvent
from trainer.runner.parent_watch import die_with_parent

_HORIZON = 16
"""The default of upstream's script."""
_EPISODE_MSE = re.compile(r"^MSE: (\S+)$|MSE for trajectory \d+: (\S+), MAE: ")
_BY_IDS = "open_loop_eval.py"


@dataclass(frozen=True)
class Compared:
    """The part of a dataset that upstream's script compares: the same first ``steps`` frames of each episode."""

    episodes: list[int]
    steps: int
    variance: float
    """Mean over dimensions of the demonstrated actions' variance over these frames."""
    hold_still: float
    """The error of holding still, asked as upstream asks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate and emit one ``evaluation`` event. Returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    first = next((number for number, token in enumerate(given) if token.startswith("--")), len(given))
    parser = argparse.ArgumentParser("trainer.evaluation.upstream")
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--dataset-path", type=Path, required=True)
    parser.add_argument("--data-config", required=True)
    parser.add_argument("--embodiment-tag", required=True)
    parser.add_argument("--report-dir", type=Path, required=True)
    parser.add_argument("--trajs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args(given[first:])
    die_with_parent()
    config = get_data_config(options.data_config)
    keys, horizon = config.keys("action"), min(_HORIZON, config.action_horizon)
    compared = what_is_compared(DatasetMeta.load(options.dataset_path), keys, options.trajs, options.steps, horizon)
    script = Path(given[first - 1]).name
    if script == _BY_IDS:
        places = map(str, range(len(compared.episodes)))
        own = ["--traj-ids", *places, "--action-horizon", str(horizon)]
    else:
        own = ["--data-config", options.data_config, "--start-traj", str(compared.episodes[0])]
        own += ["--trajs", str(len(compared.episodes))]
    command = [
        *given[:first],
        *("--model-path", str(options.model_path), "--dataset-path", str(options.dataset_path)),
        *("--embodiment-tag", options.embodiment_tag, "--steps", str(compared.steps), "--modality-keys", *keys),
        *own,
    ]
    errors = _run(command, script)
    if len(errors) != len(compared.episodes):
        raise EngineError(
            f"{script} printed {len(errors)} errors for {len(compared.episodes)} episodes.",
            "Its output is in the run's log.txt.",
        )
    mse = float(np.mean(errors))
    metrics = {"open_loop_mse": mse, "action_variance": compared.variance, "hold_still_mse": compared.hold_still}
    for name, baseline in (("variance", compared.variance), ("hold_still", compared.hold_still)):
        if baseline > 0:
            metrics[f"open_loop_mse_over_{name}"] = mse / baseline
    options.report_dir.mkdir(parents=True, exist_ok=True)
    episodes = [{"episode": episode, "mse": mse} for episode, mse in zip(compared.episodes, errors, strict=True)]
    document = {"metrics": metrics, "episodes": episodes, "steps": compared.steps}
    (options.report_dir / "evaluation.json").write_text(json.dumps(document, indent=2) + "\n")
    Emitter()(EvaluationEvent(step=_step(options.model_path), metrics=metrics))
    return 0


def what_is_compared(
    meta: DatasetMeta, keys: Sequence[str], trajs: int, steps: int, horizon: int = _HORIZON
) -> Compared:
    """At most ``trajs`` episodes with consecutive ids, as upstream counts them, and at most ``steps`` frames of each.

    Upstream continues with the repeated last frame where ``steps`` exceeds an episode, so the shortest one decides. It
    asks for actions every ``horizon`` frames.
    """
    lengths = {episode.episode_index: episode.length for episode in meta.episodes}
    start = next(iter(lengths))
    episodes = [start]
    while len(episodes) < trajs and episodes[-1] + 1 in lengths:
        episodes.append(episodes[-1] + 1)
    steps = min(steps, *(lengths[episode] for episode in episodes))
    rows = []
    for episode in episodes:
        columns = meta.columns(episode, [meta.modality.column("action", key) for key in keys])
        parts = []
        for key in keys:
            entry = meta.modality.action[key]
            parts.append(as_matrix(columns[meta.modality.column("action", key)])[:steps, entry.start : entry.end])
        rows.append(np.concatenate(parts, axis=1))
    widths = [meta.modality.action[key].width for key in keys]
    absolute = np.repeat([float(meta.modality.action[key].absolute) for key in keys], widths)
    variance = float(np.concatenate(rows).var(axis=0).mean())
    return Compared(episodes, steps, variance, float(np.mean([_hold_still(each, absolute, horizon) for each in rows])))


def _hold_still(rows: np.ndarray, absolute: np.ndarray, horizon: int) -> float:
    """The error of repeating the action before each question, or with none where it is relative (0)."""
    asked = np.arange(len(rows)) // horizon * horizon
    return float(np.mean((rows - rows[np.maximum(asked - 1, 0)] * absolute) ** 2))


def _run(command: Sequence[str], script: str) -> list[float]:
    """Run upstream's ``script``; its output goes to stderr. Returns the error it says for each episode: N1.5's prints
    it, N1.7's logs it.
    """
    errors: list[float] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:
        assert child.stdout is not None  # noqa: S101 - a pipe
        for line in child.stdout:
            sys.stderr.write(line)
            if match := _EPISODE_MSE.search(line.rstrip("\n")):
                errors.append(float(match[1] or match[2]))
    if child.returncode:
        raise EngineError(f"{script} ended with exit code {child.returncode}.", "Its output is in the run's log.txt.")
    return errors


def _step(folder: Path) -> int:
    return int(json.loads((folder / "trainer_state.json").read_text())["global_step"])


if __name__ == "__main__":
    from trainer.cli import report

    try:
        sys.exit(main())
    except PippaError as error:
        report(error)
        sys.exit(int(error.exit_code))
