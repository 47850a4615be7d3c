"""Upstream's policies as child processes: how long ``Gr00tPolicy.get_action`` takes, beside ``bench.serve``'s.

From an observation's arrays to arrays; what its server does before and after is not counted. With ``--child`` it is the
child, run by upstream's own Python: of N1.7 as ``bench/upstream_n17/environment.py`` says, of N1.5 as
``bench/loops/upstream.py``. In float32, since bf16 is slow on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__)
TAG = "new_embodiment"
INSTRUCTION = "Pick up the cube."


class Upstream:
    """One of upstream's policies, which answers when it is asked."""

    def __init__(
        self, generation: str, python: Path, checkout: Path, model: Path, work: Path, observation: Mapping[str, Any]
    ) -> None:
        """``observation`` is flat and has a batch axis; ``model`` is in the form that upstream loads."""
        import numpy as np

        file, self._log = work / f"observation-{generation}.npz", work / f"upstream-{generation}.log"
        arrays = {key: value for key, value in observation.items() if isinstance(value, np.ndarray)}
        np.savez(file, allow_pickle=False, **arrays)
        language = next(key for key in observation if key.startswith("annotation."))
        command = [python.absolute(), HERE, "--child", generation, "--checkout", checkout.absolute(), "--model", model]
        command += ["--observation", file, "--language", language]
        environ = {"CUDA_VISIBLE_DEVICES": "", "NO_ALBUMENTATIONS_UPDATE": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [str(each) for each in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
            stderr=self._log.open("w"),
        )
        self._reply()

    def chunks(self, count: int) -> dict[str, list[float]]:
        """Seconds of so many chunks: of time (``wall``) and of the processor (``cpu``)."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"Upstream's policy ended:\n{self._log.read_text()[-3000:]}")
        return json.loads(line)

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def child() -> None:
    """Answer until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", choices=["n1.5", "n1.7"], required=True)
    parser.add_argument("--checkout", type=Path, required=True, help="has gr00t/")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--observation", type=Path, required=True, help=".npz: video.*, state.*, with a batch axis")
    parser.add_argument("--language", required=True, help="the language key")
    given = parser.parse_args()
    replies = sys.stdout
    sys.stdout = sys.stderr
    sys.path[0] = str(HERE.parents[1])
    import numpy as np
    import torch

    torch.set_num_threads(1)
    arrays = dict(np.load(given.observation))
    make = _n15 if given.child == "n1.5" else _n17
    policy, observation = make(given, arrays)
    policy.model.float()
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        taken: dict[str, list[float]] = {"wall": [], "cpu": []}
        for _ in range(int(line)):
            began, cpu = time.perf_counter(), time.process_time()
            policy.get_action(observation)
            taken["wall"].append(time.perf_counter() - began)
            taken["cpu"].append(time.process_time() - cpu)
        print(json.dumps(taken), file=replies, flush=True)


def _n15(given: argparse.Namespace, arrays: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    sys.path.insert(0, str(HERE.parent / "loops"))
    from bench.loops.upstream import use_sdpa

    use_sdpa(given.checkout, given.model)
    from gr00t.experiment.data_config import DATA_CONFIG_MAP  # type: ignore[import-not-found]
    from gr00t.model.policy import Gr00tPolicy  # type: ignore[import-not-found]

    config = DATA_CONFIG_MAP["fourier_gr1_arms_only"]
    made = (str(given.model), TAG, config.modality_config(), config.transform())
    return Gr00tPolicy(*made, device="cpu"), {
        **{name: each[0] for name, each in arrays.items()},
        given.language: [INSTRUCTION],
    }


def _n17(given: argparse.Namespace, arrays: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from bench.upstream_n17.environment import make_weights

    sys.path.insert(0, str(given.checkout))
    from gr00t.policy.gr00t_policy import Gr00tPolicy  # type: ignore[import-not-found]

    make_weights(Path(json.loads((given.model / "config.json").read_text())["model_name"]))
    observation: dict[str, Any] = {
        name: {key.partition(".")[2]: value for key, value in arrays.items() if key.startswith(f"{name}.")}
        for name in ("video", "state")
    }
    observation["language"] = {given.language: [[INSTRUCTION]]}
    return Gr00tPolicy(TAG, str(given.model), device="cpu"), observation


if __name__ == "__main__":
    child()
